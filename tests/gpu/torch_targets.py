"""The target torch_cuda on a GPU: LeViT-128S in each precision, eager and compiled, at batch 1 and 64.

    python3 tests/gpu/torch_targets.py OUT.json [DEVICE [MODEL SIZE]]

Needs torch, numpy and this repository. Weights are random: they decide no speed. Engines are built, loaded and timed by
runtimes/pytorch.py; `error` is of the logits against FP32 on the processor, relative to the largest.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

import original_levit  # noqa: E402
from core.files import UserError  # noqa: E402
from measure import stats, timing  # noqa: E402
from runtimes import _program, pytorch  # noqa: E402

BATCHES = [1, 64]


class Folded(original_levit.Original, torch.nn.Module):
    """The network with BatchNorm folded into convolutions and linear layers."""

    def __init__(self, name, size):
        torch.nn.Module.__init__(self)
        original_levit.Original.__init__(self, original_levit.state(name, size=size), name, size)
        original, self.state = self.state, {}
        for key in [key for key in original if key.endswith("c.weight")]:
            self._fold(original, key[: -len(".c.weight")])
        for key, value in original.items():
            self.state.setdefault(key, value)
        self.names = {key: key.replace(".", "_") for key, value in self.state.items()}
        for key, value in self.state.items():
            self.register_buffer(self.names[key], value)
        del self.state

    def _fold(self, original, name):
        bn = {key: original[f"{name}.bn.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        scale = bn["weight"] / torch.sqrt(bn["running_var"] + original_levit.EPSILON)
        weight = original[f"{name}.c.weight"]
        self.state[f"{name}.c.weight"] = weight * scale.view(-1, *[1] * (weight.ndim - 1))
        self.state[f"{name}.bias"] = bn["bias"] - bn["running_mean"] * scale

    def forward(self, images):
        self.state = {key: getattr(self, name) for key, name in self.names.items()}
        return original_levit.Original.__call__(self, images)

    __call__ = torch.nn.Module.__call__

    def conv(self, x, prefix, facts):
        weight, bias = self.state[f"{prefix}.c.weight"], self.state[f"{prefix}.bias"]
        x = torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=1)
        return x if prefix.endswith(".6") else torch.nn.functional.hardswish(x)

    def linear(self, x, name):
        return torch.nn.functional.linear(x, self.state[f"{name}.c.weight"], self.state[f"{name}.bias"])


def measured(program, folder, recipe, images, wanted):
    """Return an engine's figures, or the error that stopped it."""
    engine = str(folder / "x.engine")
    try:
        described = pytorch.build(str(program), {**recipe, "batches": BATCHES}, None, engine)
        session = pytorch.load(engine)
        found = {"build_seconds": described["build_seconds"], "timings": []}
        found["error"] = float(np.abs(session.run(images) - wanted).max() / np.abs(wanted).max())
        for batch in BATCHES:
            timed = session.time(timing.images_for(session, batch), timing.Loop(500, 3000, 100))
            latency, compute = (stats.summary(values) for values in (timed.latency, timed.compute))
            found["timings"].append({"batch": batch, "latency_ms": latency, "compute_ms": compute, **session.facts})
        return found
    except (UserError, RuntimeError) as problem:
        return {"problem": str(problem)}


def main():
    out, device, name, size = (sys.argv[1:] + ["cuda", "LeViT-128S", "224"][len(sys.argv) - 2 :])[:4]
    network = Folded(name, int(size)).eval()
    images = np.random.default_rng(0).standard_normal((4, 3, int(size), int(size)), dtype=np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images)).numpy()
    found = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "net.pt2"
        program.write_bytes(_program.serialize(_program.export(network, int(size))))
        for compute in ("fp32", "bf16", "fp16"):
            for compiled in (False, True):
                recipe = {"compute": compute, "device": device, "compile": compiled}
                key = f"{compute} {'compiled' if compiled else 'eager'}"
                found[key] = measured(program, Path(name), recipe, images, wanted)
                print(key, found[key], flush=True)
                Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
