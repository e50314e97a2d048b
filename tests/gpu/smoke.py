"""A small network through everything that needs a GPU, in seconds: which calls of this TensorRT and CUDA work at all.

python tests/gpu/smoke.py OUT.json GRAPHS       (GRAPHS: a folder of make_graphs.py)
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support")]

import numpy as np  # noqa: E402

import runtimes  # noqa: E402
from core.files import UserError  # noqa: E402
from measure import meters, timing  # noqa: E402
from runtimes import _cuda, _gpu  # noqa: E402

CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import runtimes; runtimes.load('tensorrt').load(sys.argv[2])"


def main():
    out, graphs, found, runtime = sys.argv[1], Path(sys.argv[2]), {}, runtimes.load("tensorrt")
    folder = Path(tempfile.mkdtemp())
    os.environ["LEVIT_TIMING_CACHES"] = str(folder / "timing")
    engine = str(folder / "net.engine")

    def check(name, function):
        try:
            found[name] = function()
        except Exception:  # noqa: BLE001
            found[name] = {"error": traceback.format_exc().splitlines()[-12:]}
        Path(out + ".partial").write_text(json.dumps(found, indent=1, default=str))

    def build(recipe, graph="plain", **more):
        described = runtime.build(str(graphs / f"{graph}.onnx"), {"batches": [1, 4], **recipe}, None, engine, **more)
        return {
            k: described[k]
            for k in ("layers", "precision_of_layers", "build_seconds", "warnings", "timing_cache_bytes")
        }

    def right(interface=None):
        images = np.load(graphs / "images.npy")
        return float(
            np.abs(runtime.load(engine, interface=interface).run(images) - np.load(graphs / "logits.npy")).max()
        )

    def timed(**options):
        session = runtime.load(engine)
        times = session.time(np.load(graphs / "images.npy")[:4], timing.Loop(100, 200, 50, options, meters.gpu_meter()))
        return {**session.facts, "compute": float(np.median(times.compute)), "wall": times.wall, "energy": times.energy}

    def inspected():
        """What the inspector says of a profile with free sizes: without a context, and with one that has them."""
        session, texts = runtime.load(engine), []
        number = len(session.ranges) - 1
        session.io.set_batch(session.context(number), number, 4)
        for context in (None, session.context(number)):
            inspector = session.engine.create_engine_inspector()
            if context is not None:
                inspector.execution_context = context
            texts.append(inspector.get_engine_information(session.trt.LayerInformationFormat.JSON))
        return texts

    def refused(data):
        """A bad engine, in a process of its own: the library may crash."""
        bad = folder / "bad.engine"
        bad.write_bytes(data)
        command = [sys.executable, "-c", CHILD, str(ROOT / "workflow_scripts"), str(bad)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
        return [done.returncode, done.stdout.decode(errors="replace").strip().splitlines()[-1:]]

    def too_much():
        try:
            return [_cuda.DeviceBuffer(1 << 42)]
        except UserError as error:
            return str(error)

    fast = {"external_tactics": False}
    check("device", lambda: {**_cuda.device(), **_cuda.versions(), "state": meters.gpu_meter().state()})
    check("fp32", lambda: build({"compute": "fp32", **fast}))
    check("fp32 again", lambda: build({"compute": "fp32", **fast})["build_seconds"])
    check("inspected", inspected)
    check("right", right)
    check("right by numbers", lambda: right(_gpu.Bindings))
    check("timed", timed)
    check("timed without a graph", lambda: timed(cuda_graph=False, spin_wait=False))
    check("profile", lambda: runtime.profile(engine, 4))
    data = Path(engine).read_bytes() if Path(engine).exists() else bytes(100)
    check("truncated", lambda: [refused(data[: len(data) * part // 100]) for part in (0, 1, 50, 99)])
    check("another version", lambda: refused(data[:24] + bytes([data[24] ^ 1]) + data[25:]))
    check("out of memory", too_much)
    check(
        "int8",
        lambda: build({"compute": "int8", "high_precision": "fp16", "dynamic_batch": False, **fast}, "quantized"),
    )
    check("int8 right", right)
    check(
        "int8 by cache",
        lambda: build({"compute": "int8", "high_precision": "fp32", **fast}, calibration=str(graphs / "plain.cache")),
    )
    check("fp16", lambda: build({"compute": "fp16", **fast}))
    check("fp16 right", right)
    Path(out + ".partial").rename(out)


if __name__ == "__main__":
    main()
