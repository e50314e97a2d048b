"""A trtexec for machines that have none: strict about its options, honest about the engine, with times that are known.

    fake_trtexec.py 8|11 --loadEngine=... --shapes=... --exportTimes=...

Like NVIDIA's it refuses an option that its version has not, an engine that it cannot load, a name or shape that the
engine has not. It loads with this project's ONNX Runtime and runs a query; the times that it exports are made up:
compute takes 1.0, 1.1 ... 1.9 ms times the batch in another order, copies 0.5 and 0.25 ms, a query starts each 10 ms.
Version 8 exports its warm-up as well, as older versions do: a query ten times as slow.
"""

import json
import os
import stat
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "workflow_scripts"
VALUES = ("loadEngine", "shapes", "warmUp", "duration", "iterations", "exportTimes")
FLAGS = {
    "8": ("useCudaGraph", "useSpinWait", "noDataTransfers"),
    "11": ("noCudaGraph", "noSpinWait", "includeDataTransfers"),
}
MORE = {"8": (), "11": ("useProfile",)}
ORDER = (3, 9, 0, 5, 1, 8, 2, 7, 4, 6)
TO_DEVICE, TO_HOST, PERIOD = 0.5, 0.25, 10.0
CALLS = "calls.txt"


def install(folder, version):
    """Put an executable trtexec into a folder, to be the first on PATH; return the file that it notes its calls in."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {version} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder / CALLS


def fail(text):
    print(f"[11/23/2026-10:00:00] [E] {text}\n[11/23/2026-10:00:00] [I] 1 error\n&&&& FAILED TensorRT.trtexec")
    sys.exit(1)


def show_help(version):
    print(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{version}000] # trtexec --help\n=== Inference Options ===")
    for name in VALUES:
        print(f"  --{name}=N              Set it\n                              --notAnOption is spoken of here")
    for name in FLAGS[version] + MORE[version]:
        print(f"  --{name}                Turn it the other way round (default = otherwise)")


def parse(version, arguments):
    """Return {option: value, or None for a flag}; fail where this version has not such an option."""
    given = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        valued = name[2:] in VALUES + MORE[version]
        if not name.startswith("--") or not (valued or name[2:] in FLAGS[version]) or valued != bool(equals):
            fail(f"Unknown option: {argument}")
        given[name[2:]] = value if equals else None
    return given


def infer(engine, shapes):
    """Run a query of the shapes (name:1x3x4x4) on an engine; return its batch."""
    sys.path.insert(0, str(SCRIPTS))
    import numpy as np

    import runtimes
    from core.files import UserError

    try:
        session = runtimes.load("onnxruntime").load(engine)
    except (UserError, OSError) as error:
        fail(f"Engine deserialization failed: {error}")
    name, text = shapes.rsplit(":", 1)
    shape = [int(size) for size in text.split("x")]
    if list(session.inputs) != [name]:
        fail("Invalid tensor names found in --shapes flag.")
    try:
        return len(session.run(np.zeros(shape, np.float32)))
    except UserError as error:
        fail(f"Static dimension mismatch while setting input shape: {error}")


def trace(start, compute, copies):
    """Return a row of --exportTimes as newer versions write it."""
    into, out = (TO_DEVICE, TO_HOST) if copies else (0.0, 0.0)
    marks = {"startEnqMs": start + 0.25, "endEnqMs": start + 0.375, "startH2dMs": start, "endH2dMs": start + into}
    marks.update(startComputeMs=start + into, endComputeMs=start + into + compute, startD2hMs=start + into + compute)
    marks.update(endD2hMs=start + into + compute + out, h2dMs=into, computeMs=compute, d2hMs=out)
    return {**marks, "latencyMs": into + compute + out}


def main():
    version, *arguments = sys.argv[1:]
    if arguments == ["--help"]:
        return show_help(version)
    given = parse(version, arguments)
    with open(Path(os.environ["PATH"].split(":")[0]) / CALLS, "a") as stream:
        stream.write(json.dumps(arguments) + "\n")
    batch, warm_up = infer(given["loadEngine"], given["shapes"]), float(given["warmUp"])
    copies = "noDataTransfers" not in given if version == "8" else "includeDataTransfers" in given
    slow = [trace(0.0, 10.0 * batch, copies)] if version == "8" and warm_up else []
    timed = [trace(warm_up + PERIOD * n, batch * (10 + step) / 10, copies) for n, step in enumerate(ORDER)]
    Path(given["exportTimes"]).write_text(json.dumps(slow + timed))
    print("&&&& PASSED TensorRT.trtexec")


if __name__ == "__main__":
    main()
