"""Decoded pixels to logits under OpenVINO, both ways: normalized by numpy before the engine, and by the engine itself.

    python tests/bench/pixels.py [results/DATASET [PRECISION]]     # int8_qat by default; prints Markdown

Takes MODEL's graph of the target `cpu`, which must be there. Both engines have a process of their own and take turns.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import turns

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow_scripts"))

MODEL, BATCHES, ROUNDS, SECONDS = "LeViT-128S", (1, 16), 8, 1.0
RECIPE = {"compute": "int8", "high_precision": "bf16", "batches": list(BATCHES)}


def make(results, precision, folder):
    """Write the graph that takes pixels and both engines."""
    import runtimes
    from core import resolved
    from data import preprocess
    from graph import onnx_io, pixels

    model = resolved.read(results / f"models/{MODEL}.json", resolved.NORMALIZATION)
    graph = results / f"quantized/{MODEL}.{precision}.cpu.onnx"
    taking = pixels.take(onnx_io.load(graph), model["mean"], model["std"], preprocess.normalize, "openvino")
    onnx_io.save(taking, folder / "pixels.onnx")
    for name, path in (("float32", graph), ("uint8", folder / "pixels.onnx")):
        runtimes.load("openvino").build(str(path), RECIPE, None, str(folder / f"{name}.engine"))
    return model


def timer(contender):
    """Return the function that times an engine from pixels to logits. contender: (its path, JSON of the model)."""
    import numpy as np

    import runtimes
    from data import preprocess

    session, model = runtimes.load("openvino").load(contender[0]), json.loads(contender[1])
    size = next(iter(session.inputs.values()))[2]  # height or width: images are square
    random = np.random.default_rng(0)

    def measure(batch, seconds):
        images, times = random.integers(0, 256, (batch, size, size, 3), np.uint8), []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            begin = time.perf_counter()
            session.run(preprocess.for_session(session, images, model))
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    return measure


def main(results="results/digits", precision="int8_qat"):
    with tempfile.TemporaryDirectory() as folder:
        model = json.dumps(make(Path(results), precision, Path(folder)))
        ways = {name: (f"{folder}/{name}.engine", model) for name in ("float32", "uint8")}
        wanted = [(way, batch) for batch in BATCHES for way in ways.values()]
        found = turns.speeds(timer, ways.values(), wanted, ROUNDS, SECONDS)
    print("| batch | normalized by numpy, images/s | by the engine | speed | of each round |")
    print("| --- | --- | --- | --- | --- |")
    for batch in BATCHES:
        slow, fast = (found[ways[name], batch] for name in ("float32", "uint8"))
        ratios = sorted(a / b for a, b in zip(slow, fast))
        rates = [1e3 * batch / statistics.median(times) for times in (slow, fast)]
        middle = statistics.median(ratios)
        print(f"| {batch} | {rates[0]:.0f} | {rates[1]:.0f} | {middle:.2f}x | {ratios[0]:.2f} to {ratios[-1]:.2f} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
