"""The most memory that each job of a device needs, in a given interpreter, with runtimes that need no GPU.

    python tests/bench/memory.py [--python .venv8/bin/python] [--images 1024] [LeViT-384]

Prints a JSON line per job: a Xavier NX has 8 GB for its processor and its GPU together. Weights and images are random.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow_scripts"), str(ROOT / "tests/support"), str(ROOT / "tests/bench")]
CLASSES, BATCHES = 1000, [1, 16]
# a process's peak starts at that of the one which made it: a small interpreter stands between
WAIT = """
import os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL).pid, 0)
print(usage.ru_maxrss // 1024)
sys.exit(1 if status else 0)
"""


def prepare(folder, row, passes, count):
    """Write a network's clean graph and a split of random images with its index and reference logits."""
    import numpy as np
    import onnx
    from plans import clean_graph

    from graph import onnx_io

    onnx.save(onnx_io.to_model(clean_graph(row, passes)), folder / "net.onnx")
    random = np.random.default_rng(0)
    with open(folder / "val.u8", "wb") as stream:
        np.save(stream, random.integers(0, 256, (count, row["size"], row["size"], 3)).astype(np.uint8))
    np.save(folder / "reference.npy", random.standard_normal((count, CLASSES)).astype(np.float32))
    images = [{"path": f"{i}.png", "label": i % CLASSES, "bytes": 1, "sha256": None} for i in range(count)]
    splits = {"train": [], "calib": [], "select": [], "val": list(range(count))}
    index = {"classes": [str(c) for c in range(CLASSES)], "root": "images", "images": images, "splits": splits}
    (folder / "index.json").write_text(json.dumps(index))


def jobs(folder, row, runtime, facts):
    """Yield (script, arguments) of a target's jobs."""
    common = {"runtime": runtime, "identity": json.dumps(facts), "engine": folder / "net.engine"}
    from described import model_file

    model = model_file(folder, row)
    recipe = {"compute": "fp32", "batches": BATCHES, "threads": 0}
    timing = {"batches": BATCHES, "threads": 0, "warmup_ms": 200, "duration_ms": 1000, "iterations": 5}
    read = {name: folder / file for name, file in (("images", "val.u8"), ("index", "index.json"))}
    read.update(reference=folder / "reference.npy", split="val", model=model)
    yield "build_engine", {**common, "onnx": folder / "net.onnx", "recipe": recipe, "description": folder / "net.json"}
    yield "evaluate_engine", {**common, **read, "recipe": {"threads": 0}, "accuracy": folder / "accuracy.json"}
    yield "benchmark", {**common, "recipe": timing, "benchmark": folder / "benchmark.json"}


def peak_mib(python, script, arguments):
    """Run a job; return the most memory that its process held, in MiB."""
    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in arguments.items()}
    command = [python, str(ROOT / f"workflow_scripts/{script}.py")]
    command += [part for name, text in texts.items() for part in (f"--{name}", text)]
    done = subprocess.run([sys.executable, "-c", WAIT, *command], capture_output=True)
    if done.returncode:
        sys.exit(f"{script} failed: {' '.join(map(str, command))}")
    return int(done.stdout)


def main():
    import yaml

    from described import USUAL

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["LeViT-384"])
    parser.add_argument("--python", default=".venv8/bin/python")
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args()
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    ask = "import json, sys; sys.path.insert(0, sys.argv[1]); from devices import probe\n"
    ask += "print(json.dumps(probe.facts(sys.argv[2])))"
    for name in args.models:
        row = {**USUAL, **config["models"][name]}
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), row, config["graphs"]["cpu"]["passes"], args.images)
            for runtime in ("onnxruntime", "openvino"):
                said = subprocess.run([args.python, "-c", ask, ROOT / "workflow_scripts", runtime], capture_output=True)
                for script, arguments in jobs(
                    Path(folder), {**USUAL, **config["models"][name]}, runtime, json.loads(said.stdout)
                ):
                    found = peak_mib(args.python, script, arguments)
                    print(json.dumps({"model": name, "runtime": runtime, "job": script, "peak_mib": found}), flush=True)


if __name__ == "__main__":
    main()
