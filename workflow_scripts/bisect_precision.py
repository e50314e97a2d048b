"""Find a precision's fallback as the original did, for comparison: `polygraphy debug precision --mode bisect`.

It keeps the first k layers of TensorRT's network in FP32, with one engine build for every k that it tries, and holds
each to ONNX Runtime's logits of one image, within a tolerance. Runs where TensorRT up to 10.x and Polygraphy are.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time

from core import resolved
from core.command import Command, Job, log
from core.files import UserError, write_json

TOOL, ENGINE, TOLERANCE = "polygraphy", "polygraphy_debug.engine", "1e-2"  # the original's, absolute or relative
FLAGS = {"fp16": ["--fp16"], "int8": ["--int8"]}
BUILT = re.compile(r"RUNNING \| Iteration (\d+)")
SELECTED = re.compile(r"Selecting first (\d+) layer")
VERSION = re.compile(r"\d+(?:\.\d+)+")
FOUND = re.compile(r"try running the first (\d+) layer")
ERROR = re.compile(r"\[E\] +(.+)")
LOADER = """import numpy
def load_data():
    yield {{"input_0": numpy.load({path!r})}}
"""


def run(args: Job) -> None:
    version = check(args.recipe)
    with tempfile.TemporaryDirectory() as folder:
        reference, search = commands(args, folder)
        printed(reference, folder)
        start = time.monotonic()
        text = printed(search, folder)
        seconds = time.monotonic() - start
    found = described(text, seconds)
    write_json(args.bisect, {**found, "versions": version, "tolerance": float(TOLERANCE), "command": search[1:]})
    log.info(
        "%d engine builds in %.0f s: %s of %s layers", *(found[k] for k in ("builds", "seconds", "kept", "layers"))
    )


def check(recipe):
    """Return the versions of TensorRT and Polygraphy; raise UserError where they are missing or cannot bisect."""
    from devices import probe

    if recipe["compute"] not in FLAGS:
        raise UserError(f"there is nothing to bisect in {recipe['compute']}: only in {' and '.join(FLAGS)}")
    version = probe.facts("tensorrt")["version"]
    if version is None:
        raise UserError("bisect needs TensorRT up to 10.x in this Python, and there is none: run it on the target")
    if int(version.split(".")[0]) > 10:
        raise UserError(f"TensorRT {version} takes no precision of a layer, which bisect sets: use 10.x or older")
    if shutil.which(TOOL) is None:
        raise UserError("bisect needs Polygraphy's command line on PATH: pip install polygraphy")
    return {"tensorrt": version, TOOL: (VERSION.search(printed([TOOL, "--version"], None)) or [None])[0]}


def commands(args, folder):
    """Return two command lines: ONNX Runtime's logits of one image, and the search that holds engines to them."""
    import numpy as np

    from data import cache, preprocess

    model = resolved.read(args.model, resolved.NORMALIZATION)
    image = preprocess.normalize(np.asarray(cache.read(args.images)[:1]), model["mean"], model["std"])
    np.save(os.path.join(folder, "image.npy"), image)
    loader = os.path.join(folder, "load.py")
    with open(loader, "w", encoding="utf-8") as stream:
        stream.write(LOADER.format(path=os.path.join(folder, "image.npy")))
    onnx, kept = os.path.abspath(args.onnx), ["--load-inputs", "inputs.json", "--load-outputs", "outputs.json"]
    saved = ["--save-inputs", "inputs.json", "--save-outputs", "outputs.json"]
    reference = [TOOL, "run", onnx, "--onnxrt", "--data-loader-script", loader, *saved]
    shape = f"input_0:[{','.join(map(str, image.shape))}]"
    shapes = [text for bound in ("min", "opt", "max") for text in (f"--trt-{bound}-shapes", shape)]
    held = [TOOL, "run", ENGINE, "--trt", *kept, "--atol", TOLERANCE, "--rtol", TOLERANCE]
    search = [TOOL, "debug", "precision", onnx, "--mode", "bisect", "--dir", "forward", "-p", "float32"]
    return reference, [*search, *flags(args), *shapes, "--check", *held]


def flags(args):
    """Return the builder's options of a recipe."""
    found = list(FLAGS[args.recipe["compute"]])
    found += FLAGS["fp16"] if args.recipe.get("high_precision") == "fp16" else []
    found += ["--calibration-cache", os.path.abspath(args.cache)] if args.cache else []
    space = args.recipe.get("workspace_mb")
    return found + (["--pool-limit", f"workspace:{space}M"] if space else [])


def printed(command, folder):
    """Return what a command prints, its lines shown as they come; raise UserError with the last one where it fails."""
    options = {"cwd": folder, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "universal_newlines": True}
    lines = []
    with subprocess.Popen(command, **options) as process:
        for line in process.stdout:
            lines.append(line)
            if BUILT.search(line) or SELECTED.search(line):
                log.info("%s", line.strip())
    if process.returncode:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        raise UserError(f"{' '.join(command[:3])} failed with status {process.returncode}: {last}")
    return "".join(lines)


def described(text, seconds):
    """Return {builds, seconds, layers, kept, met, error} of what the search printed.

    layers: of TensorRT's network (the search begins with all of them); kept: how many of the first stay in FP32, None
    where no number of them is enough; error: the first that was printed where that is so.
    """
    builds, tried = BUILT.findall(text), [int(number) for number in SELECTED.findall(text)]
    if not builds or not tried:
        raise UserError(f"{TOOL} debug precision said nothing of its iterations: its version is not one that is known")
    found = FOUND.findall(text)
    kept = int(found[-1]) if found else None
    return {
        "builds": int(builds[-1]),
        "seconds": round(seconds, 3),
        "layers": max(tried),
        "kept": kept,
        "met": kept is not None,
        "error": None if kept is not None else next(iter(ERROR.findall(text)), None),
    }


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--onnx", help="clean graph").input("--images", help=".u8 of the select split")
    c.input("--cache", nargs="?", required=False, help="TensorRT calibration cache, for INT8")
    c.model(resolved.NORMALIZATION).json_param("--recipe", help="JSON: compute, high_precision, workspace_mb")
    c.json_param("--identity", help="JSON")
    return c.output("--bisect")


if __name__ == "__main__":
    command().run(run)
