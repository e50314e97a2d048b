"""Plans of FP16 for the five models with random weights, as they are and with an overflow that was put in on purpose.

    python tests/bench/plans.py [--images 16] [LeViT-128S ...]

Prints a JSON line per model: nodes kept where nothing overflows (goal: at most 2 %), whether exactly the nodes of the
planted overflow are kept, and the seconds that each plan took.
"""

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support"), str(ROOT / "tests/graph")]
PLANTED = "stages.1.blocks.1.mlp"  # its first linear layer is scaled up, its second one down
FOUND = {f"{PLANTED}.{name}" for name in ("ln1/Gemm", "act/HardSigmoid", "act/Mul", "ln2/Gemm")}


def clean_graph(row, passes):
    """Return the clean graph of a network with random weights whose BatchNorm is not at its neutral start."""
    from test_graph import deployed, trained_like

    from graph import onnx_io
    from graph import passes as surgeon
    from model import export

    return surgeon.apply(onnx_io.from_model(export.to_onnx(deployed(trained_like(row, 1000)), row["size"])), passes)


def plan_of(graph, row, pixels, workers):
    """Return (plan, seconds) of FP16 with FP32's own answers as labels."""
    import numpy as np

    from data import preprocess
    from graph import onnx_io
    from planning import planner, verify

    session = onnx_io.runner(onnx_io.to_model(graph.copy()))
    images = preprocess.normalize(pixels, row["mean"], row["std"])
    reference = np.concatenate([session.run(None, {onnx_io.INPUT: image[None]})[0] for image in images])
    inputs = planner.Inputs(pixels, verify.Select(pixels, reference.argmax(axis=1), reference, row))
    start = time.monotonic()
    recipe = {"compute": "fp16", "budget": 0.3}
    found = planner.plan(graph.copy(), None, [], recipe, inputs, workers=workers)
    return found, round(time.monotonic() - start, 1)


def measure(name, row, passes, images, workers):
    """Return what the two plans of a model are, as a JSON value."""
    import numpy as np
    from test_graph import planted

    pixels = np.random.default_rng(0).integers(0, 256, (images, row["size"], row["size"], 3)).astype(np.uint8)
    graph = clean_graph(row, passes)
    plain, seconds = plan_of(graph, row, pixels, workers)
    adverse, more = plan_of(planted(graph, PLANTED), row, pixels, workers)
    return {
        "model": name,
        "nodes": plain["nodes_total"],
        "kept": plain["nodes_high_precision"],
        "kept_with_overflow": adverse["nodes_high_precision"],
        "exactly_the_planted": {node["name"] for node in adverse["nodes"]} == FOUND,
        "met": [plain["met"], adverse["met"]],
        "seconds": [seconds, more],
    }


def main():
    import yaml

    from described import USUAL

    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    published = [name for name, row in config["models"].items() if row.get("top1")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=published)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    passes = config["graphs"]["gpu"]["passes"]
    for name in args.models:
        print(
            json.dumps(measure(name, {**USUAL, **config["models"][name]}, passes, args.images, args.workers)),
            flush=True,
        )


if __name__ == "__main__":
    main()
