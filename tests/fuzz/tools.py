"""The workflow's own command lines, with inputs that are not what they should be."""

import importlib
import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

from workflow import REPOSITORY, SNAKEMAKE

LABEL = "LeViT-tiny.fp16.gpu"
REQUESTS = [
    f"results/{name}" for name in ("LeViT-tiny.auto.cpu.json", "LeViT-tiny.int8_dla.xavier.json", f"{LABEL}.json")
]
REQUESTS += ["results/summary.tsv", "results/report.html", "results/digits/sweeps/LeViT-tiny.int8_ptq.json"]
REQUESTS += [f"results/digits/{folder}/{LABEL}.json" for folder in ("bisect", "profile")]
REQUESTS += [f"results/digits/timeline/{LABEL}.{end}" for end in ("svg", "nsys-rep")]
REQUESTS += [f"results/digits/{kind}/{LABEL}.tar.gz" for kind in ("bundles", "triton")]
REQUESTS += [f"results/digits/typed/LeViT-tiny.fp16.{end}" for end in ("onnx", "json")]
REQUESTS += ["results/digits/calibration/LeViT-tiny.int8_qat.gpu.cache", "results/digits/accuracy/LeViT-tiny.onnx.json"]
REQUESTS += ["results/digits/pytorch/LeViT-tiny.fp32.cpu.json"]
REQUESTS += ["results/imagenet/checkpoints/LeViT-128S.pth", "results/mine/checkpoints/LeViT-tiny.pth"]
REQUESTS += ["results/mine/data/LeViT-tiny.val.u8"]
REQUESTS += ["results/digits/quantized/LeViT-tiny.nncf.cpu.onnx", "results/digits/pixels/LeViT-tiny.fp32.ort.onnx"]
MINE = ("datasets={mine: {path: mine, classes: 10, weights: mine.pth, shards: 2}}",)
MINE += ("targets={cpu: {pytorch: fp32.torch}, ort: {input: uint8}}",)
MINE += ("precisions={nncf: {compute: int8, budget: 2.0, calibration: {backend: nncf}}}",)
PYTHON = re.compile(r'"\$LEVIT_PYTHON(?:_\w+)?" (workflow_scripts/.*)')
# command lines that no rule runs: (script, arguments); BAD is replaced by the path of a bad file
TOOLS = [
    ("store.py", ["list", "--store", "BAD"]),
    ("store.py", ["prune", "--store", "BAD"]),
    ("store.py", ["verify", "--store", "BAD"]),
    ("store.py", ["upload", "--store", "BAD"]),
    ("reproduce.py", ["BAD"]),
    ("device_kit.py", ["unpack", "BAD"]),
    ("device_kit.py", ["needs", "BAD"]),
    ("sync_device.py", ["to", "/nowhere/", "BAD"]),
    ("sync_device.py", ["from", "/nowhere/", "BAD"]),
    ("probe.py", ["BAD"]),
]


def commands(folder):
    """Return {script: its command line's arguments} as Snakemake plans them in a copy of the workflow."""
    (folder / "mine.pth").write_bytes(b"x")
    for name in ("train/a", "val/a"):
        (folder / "mine" / name).mkdir(parents=True, exist_ok=True)
        (folder / "mine" / name / "a.png").write_bytes(b"x")
    done = subprocess.run(
        [SNAKEMAKE, "-n", "-p", "--config", *MINE, "--", *REQUESTS], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for line in (done.stdout + done.stderr).splitlines():
        match = PYTHON.search(line)
        if match:
            script, *arguments = shlex.split(match.group(1))
            if len(arguments) >= len(found.get(Path(script).name, [])):
                found[Path(script).name] = arguments
    return found


def files_of(script):
    """Return (flags of inputs, flags of outputs) of a command."""
    sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
    command = importlib.import_module(Path(script).stem).command()
    flags = {action.dest: action.option_strings[0] for action in command.parser._actions if action.option_strings}
    return {flags[name] for name in command.inputs}, {flags[name] for name in command.outputs}


def bad_files(folder, seed=0):
    """Make files and folders that are not what a command expects; return {kind: path}."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = random.Random(seed).randbytes(4096)
    made = {
        "empty": b"",
        "binary": noise,
        "text": b"<!DOCTYPE html>\n<html>404</html>\n",
        "list": b"[]",
        "object": b"{}",
        "number": b"3",
        "null": b"null",
        "half JSON": b'{"model": "LeViT-tiny", "accuracy": {"top1": 9',
        "deep JSON": b"[" * 100_000,
        "not UTF-8": b'{"model": "\xff\xfe"}',
        "NaN": b'{"accuracy": {"top1": NaN}, "benchmark": NaN}',
        "zip": b"PK\x03\x04" + noise,
        "array": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }" + noise,
        "older result": json.dumps({"model": "m", "precision": "p", "target": "t", "accuracy": {"top1": 1}}).encode(),
    }
    paths = {}
    for kind, data in made.items():
        paths[kind] = folder / f"{kind.replace(' ', '-')}.json"
        paths[kind].write_bytes(data)
    paths["folder"] = folder / "folder"
    paths["folder"].mkdir(exist_ok=True)
    paths["missing"] = folder / "missing"
    return paths


def with_inputs(script, arguments, path, output, only=None):
    """Return a command's arguments with `path` for its inputs (or the one of flag `only`), outputs below `output`."""
    inputs, outputs = files_of(script)
    changed, flag = [], ""
    for argument in arguments:
        if argument.startswith("--"):
            flag = argument.split("=", 1)[0]
            if flag in outputs | {"--log"} and "=" in argument:
                argument = f"{flag}={output / flag.strip('-')}"
            elif flag in inputs and "=" in argument and only in (None, flag):
                argument = f"{flag}={path}"
        elif flag in inputs and only in (None, flag):
            argument = str(path)
        elif flag in outputs | {"--log"}:
            argument = str(output / flag.strip("-"))
        changed.append(argument)
    return changed


def run(script, arguments, folder, timeout=120, python=sys.executable):
    """Run a command line; return (exit status or `hang`, what it wrote to stderr)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEVIT_")}
    command = [python, str(REPOSITORY / "workflow_scripts" / script), *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return "hang", ""
    return done.returncode, done.stderr.decode(errors="replace")


def verdict(status, stderr, output):
    """Return what is wrong with an answer to a bad input, or None: one line, status 1, nothing half written."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    if status == "hang":
        return "hang"
    if "Traceback" in stderr:
        return "traceback"
    if status == 0:
        return "accepted"
    if len(errors) != 1 or stderr.strip().splitlines()[-1] != errors[0]:
        return f"{len(errors)} error lines"
    if re.match(r"error: \w+\.py: \w+: ", errors[0]) and "no record says what wrote" not in errors[0]:
        return "an exception's name"
    left = [path.name for path in output.iterdir() if path.name != "log"]
    return f"left {left}" if left else None
