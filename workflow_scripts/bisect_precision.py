"""Find the FP32 fallback of a precision with `polygraphy debug precision --mode bisect`, to compare with plans.

Polygraphy keeps the first k layers of TensorRT's network in FP32, builds an engine for every k that it tries, and
compares the logits of one image with those of ONNX Runtime. Needs Polygraphy and TensorRT up to 10.x.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time

from core import resolved
from core.command import Command, Job, log
from core.files import UserError, write_json
from devices import probe

TOOL, ENGINE, TOLERANCE = ("polygraphy", "polygraphy_debug.engine", "1e-2")  # as in the original project
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
        output_of(reference, folder)
        start = time.monotonic()
        text = output_of(search, folder)
        seconds = time.monotonic() - start
    outcome = described(text, seconds)
    write_json(args.bisect, {**outcome, "versions": version, "tolerance": float(TOLERANCE), "command": search[1:]})
    log.info("%(builds)d engine builds in %(seconds).0f s: %(kept)s of %(layers)s layers", outcome)


def check(recipe: dict) -> dict[str, str | None]:
    """Return the versions of TensorRT and Polygraphy; raise UserError if they are missing or cannot bisect."""
    if recipe["compute"] not in FLAGS:
        raise UserError(f"there is nothing to bisect in {recipe['compute']}: only in {' and '.join(FLAGS)}")
    version = probe.facts("tensorrt")["version"]
    if version is None:
        raise UserError("bisect needs TensorRT up to 10.x in this Python, and there is none: run it on the target")
    if int(version.split(".")[0]) > 10:
        raise UserError(f"TensorRT {version} takes no precision of a layer, which bisect sets: use 10.x or older")
    if shutil.which(TOOL) is None:
        raise UserError("bisect needs Polygraphy's command line on PATH: pip install polygraphy")
    return {"tensorrt": version, TOOL: (VERSION.search(output_of([TOOL, "--version"], None)) or [None])[0]}


def commands(args: Job, folder: str) -> tuple[list[str], list[str]]:
    """Return two command lines: the reference logits of one image, and the search that compares engines with them."""
    import numpy as np

    from data import cache, preprocess

    model = resolved.read(args.model, resolved.NORMALIZATION)
    image = preprocess.normalize(np.asarray(cache.read(args.images)[:1]), model["mean"], model["std"])
    np.save(os.path.join(folder, "image.npy"), image)
    loader = os.path.join(folder, "load.py")
    with open(loader, "w", encoding="utf-8") as stream:
        stream.write(LOADER.format(path=os.path.join(folder, "image.npy")))
    onnx, recorded = os.path.abspath(args.onnx), ["--load-inputs", "inputs.json", "--load-outputs", "outputs.json"]
    saved = ["--save-inputs", "inputs.json", "--save-outputs", "outputs.json"]
    reference = [TOOL, "run", onnx, "--onnxrt", "--data-loader-script", loader, *saved]
    shape = f"input_0:[{','.join(map(str, image.shape))}]"
    shapes = [text for bound in ("min", "opt", "max") for text in (f"--trt-{bound}-shapes", shape)]
    comparison = [TOOL, "run", ENGINE, "--trt", *recorded, "--atol", TOLERANCE, "--rtol", TOLERANCE]
    search = [TOOL, "debug", "precision", onnx, "--mode", "bisect", "--dir", "forward", "-p", "float32"]
    return reference, [*search, *flags(args), *shapes, "--check", *comparison]


def flags(args: Job) -> list[str]:
    """Return the builder's options of a recipe."""
    options = list(FLAGS[args.recipe["compute"]])
    options += FLAGS["fp16"] if args.recipe.get("high_precision") == "fp16" else []
    options += ["--calibration-cache", os.path.abspath(args.cache)] if args.cache else []
    space = args.recipe.get("workspace_mb")
    return options + (["--pool-limit", f"workspace:{space}M"] if space else [])


def output_of(command: list[str], folder: str | None) -> str:
    """Return the output of a command, logging its progress; raise UserError with its last line if it fails."""
    lines = []
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if BUILT.search(line) or SELECTED.search(line):
                log.info("%s", line.strip())
    if process.returncode:
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
        raise UserError(f"{' '.join(command[:3])} failed with status {process.returncode}: {last}")
    return "".join(lines)


def described(text: str, seconds: float) -> dict:
    """Return {builds, seconds, layers, kept, met, error} from the output of the search.

    layers: of TensorRT's network; kept: the number of first layers that stay in FP32, None if no number is enough;
    error: in this case, the first error that was printed.
    """
    builds, tried = BUILT.findall(text), [int(number) for number in SELECTED.findall(text)]
    if not builds or not tried:
        raise UserError(f"{TOOL} debug precision printed no iterations: this version of it is not supported")
    sufficient = FOUND.findall(text)
    first = int(sufficient[-1]) if sufficient else None
    return {
        "builds": int(builds[-1]),
        "seconds": round(seconds, 3),
        "layers": max(tried),
        "kept": first,
        "met": first is not None,
        "error": None if first is not None else next(iter(ERROR.findall(text)), None),
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
