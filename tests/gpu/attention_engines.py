"""Build engines of clean graphs and time them in a CUDA graph, for docs/measurements/attention-h100.md.

    LEVIT_PLUGIN=liblevit_attention.so python tests/gpu/attention_engines.py FOLDER build 128S.gpu_fused@64.fp16 ...
    LEVIT_PLUGIN=liblevit_attention.so python tests/gpu/attention_engines.py FOLDER time 128S.gpu_fused@64.fp16 ...

FOLDER has {model}.{class}.onnx and {model}.npy, ONNX Runtime's FP32 logits of `images(size)` for each model; it gets
{stage}.engine, {stage}.build.json and {stage}.json, the last with the layers' times. Builds run one at a time a GPU.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

import numpy as np  # noqa: E402

import runtimes  # noqa: E402
from measure import meters, stats, timing  # noqa: E402

RECIPE = {"workspace_mb": 4096, "dynamic_batch": False}
OPTIONS = {"cuda_graph": True, "transfers": False}


def images(size, count=64):
    return np.random.default_rng(7).standard_normal((count, 3, size, size), dtype=np.float32)


def parts(stage):
    """Return (graph's name, model, batch, compute) of `128S.gpu_fused@64.fp16`."""
    graph, rest = stage.split("@")
    batch, compute = rest.split(".")
    return graph, graph.split(".")[0], int(batch), compute


def build(runtime, folder, stage):
    graph, _, batch, compute = parts(stage)
    recipe = {**RECIPE, "compute": compute, "batches": [batch]}
    described = runtime.build(str(folder / f"{graph}.onnx"), recipe, None, str(folder / f"{stage}.engine"))
    (folder / f"{stage}.build.json").write_text(json.dumps(described, indent=1))
    print(stage, round(described["build_seconds"], 1), "s", described["precision_of_layers"], flush=True)


def time(runtime, folder, stage):
    _, model, batch, _ = parts(stage)
    session = runtime.load(str(folder / f"{stage}.engine"))
    expected, size = np.load(folder / f"{model}.npy"), session.inputs[session.source][2]
    given = np.concatenate([images(size)] * -(-batch // 64))[:batch]
    got, expected = session.run(given), np.concatenate([expected] * -(-batch // 64))[:batch]
    times = session.time(given, timing.Loop(500, 3000, 100, OPTIONS, meters.gpu_meter()))
    count = len(times.compute)
    found = {
        "logit_error": float(np.abs(got - expected).max() / np.abs(expected).max()),
        "same_class": float((got.argmax(1) == expected.argmax(1)).mean()),
        "compute_ms": stats.summary(times.compute),
        "energy_mj_per_image": times.energy / (count * batch) if times.energy else None,
        **session.facts,
    }
    print(stage, json.dumps(found), flush=True)
    layers = runtime.profile(str(folder / f"{stage}.engine"), batch)
    (folder / f"{stage}.json").write_text(json.dumps({**found, "layers": layers}, indent=1))


def main():
    folder, work = Path(sys.argv[1]), {"build": build, "time": time}[sys.argv[2]]
    for stage in sys.argv[3:]:
        work(runtimes.load("tensorrt"), folder, stage)


if __name__ == "__main__":
    main()
