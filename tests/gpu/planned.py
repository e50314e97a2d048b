"""What TensorRT does with plans of FP16, on a network whose FP16 overflows: one linear layer was scaled up on purpose.

    python tests/gpu/planned.py make results/digits STAGE                              (on the host)
    python3 tests/gpu/planned.py run STAGE OUT --python PYTHON_WITH_TENSORRT [--steps plan,bisect]

`run` builds it without a plan, by its plan, and by one that lacks the node that overflows, which must grow; each is
scored on the select split. Then comes the original's bisection. OUT/{name}.json and OUT/{name}.log say
what came of each; a step that is done is not repeated. `run` needs the standard library alone, Python 3.8.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow_scripts"
MODEL, PLANTED = "LeViT-128S", "stages.1.blocks.1.mlp"
MISSING = f"{PLANTED}.ln1/Gemm"  # its output overflows
NORMALIZATION = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RECIPE = {"compute": "fp16", "batches": [1], "workspace_mb": 4096, "dynamic_batch": False}
CRITERION = {"compute": "fp16", "budget": 0.3, "criterion": {"agreement": 99.0}}


def make(source, stage):
    """Write the overflowing graph of a built results/{dataset}, its plan, one that lacks a node, and the images."""
    sys.path[:0] = [str(SCRIPTS), str(ROOT / "tests/support"), str(ROOT / "tests/graph")]
    from test_graph import planted

    from core.files import write_json
    from data import cache
    from graph import onnx_io
    from planning import planner, verify

    stage.mkdir(parents=True, exist_ok=True)
    images, calibration = (source / f"data/LeViT-128S.{split}.u8" for split in ("select", "calib"))
    for path, name in ((images, "select.u8"), (source / "data/index.json", "index.json")):
        shutil.copyfile(path, stage / name)
    shutil.copyfile(source / f"select/{MODEL}.torch.npy", stage / "select.npy")
    graph = planted(onnx_io.load(source / f"clean/{MODEL}.gpu.onnx"), PLANTED)
    onnx_io.save(graph, stage / "planted.onnx")
    select = verify.select_of(images, stage / "index.json", stage / "select.npy", NORMALIZATION)
    inputs = planner.Inputs(cache.read(calibration), select)
    found = planner.plan(graph, None, [], CRITERION, inputs, workers=os.cpu_count())
    write_json(stage / "plan.json", found)
    nodes = [node for node in found["nodes"] if node["name"] != MISSING]
    write_json(stage / "short.json", {**found, "nodes": nodes, "nodes_high_precision": len(nodes)})
    write_json(stage / "none.json", {**found, "nodes": [], "nodes_high_precision": 0, "groups": []})
    print(f"{len(found['nodes'])} of {found['nodes_total']} nodes keep FP32: {[n['name'] for n in found['nodes']]}")


class Run:
    def __init__(self, args):
        self.python, self.stage, self.out = args.python, args.stage, args.out
        self.out.mkdir(parents=True, exist_ok=True)

    def step(self, name, script, *options):
        """Run a script of the workflow unless OUT/{name}.json is there; print how long it took."""
        made, start = self.out / f"{name}.json", time.monotonic()
        if made.exists():
            return made
        with open(self.out / f"{name}.log", "ab") as log:
            command = [self.python, SCRIPTS / f"{script}.py", *options]
            status = subprocess.call([str(part) for part in command], stdout=log, stderr=log)
        print(f"{name}: status {status}, {time.monotonic() - start:.1f} s", flush=True)
        return made

    def all(self, steps):
        runtime, target = '{"runtime":"tensorrt"}', self.json("target")
        self.step("target", "fingerprint", "--target", runtime, "--identity", target)
        common = ("--identity", target.read_text(), "--recipe", json.dumps(RECIPE))
        graph, images = self.stage / "planted.onnx", self.stage / "select.u8"
        model = self.json("model")
        model.write_text(json.dumps(NORMALIZATION))
        select = (images, self.stage / "index.json", self.stage / "select.npy")
        for plan in [step for step in steps if step != "bisect"]:
            options = ("--onnx", graph, "--runtime", "tensorrt", "--plan", self.stage / f"{plan}.json")
            options += ("--select", *select, *common)
            options += ("--verification", json.dumps({"typed": False}), "--model", model)
            files = ("--engine", self.out / f"{plan}.engine", "--description", self.json(plan))
            self.step(plan, "build_engine", *options, *files)
        if "bisect" in steps:
            options = ("--onnx", graph, "--images", images, "--model", model, *common)
            self.step("bisect", "bisect_precision", *options, "--bisect", self.json("bisect"))

    def json(self, name):
        return self.out / f"{name}.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "run"))
    parser.add_argument("stage", type=Path, help="make: results/{dataset}; run: the folder that make wrote")
    parser.add_argument("out", type=Path, help="make: the folder to write; run: where results go")
    parser.add_argument("--python", default=sys.executable, help="with TensorRT, numpy, Pillow; Polygraphy to bisect")
    parser.add_argument("--steps", default="none,plan,short,bisect", help="what to run, in this order")
    args = parser.parse_args()
    if args.what == "make":
        make(args.stage, args.out)
    else:
        Run(args).all(args.steps.split(","))


if __name__ == "__main__":
    main()
