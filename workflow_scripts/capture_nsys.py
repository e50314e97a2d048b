"""Capture an engine's queries with NVIDIA's Nsight Systems: CUDA's calls, kernels and copies, for its own viewer.

The recipe is {"batches", "threads"?}. Each batch is warmed up and then queried for a second inside the capture, which
holds everything from the start of the process on.
"""

import os
import subprocess
import sys

from core import provenance
from core.command import Command, log

PLACES = (
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
)  # JetPack's, not on PATH
TRACED = "cuda,nvtx,cudnn,cublas,osrt"
TIMING = {"warmup_ms": 200, "duration_ms": 1000, "iterations": 10}


def find():
    """Return the path of nsys, the newest of those that are not on PATH, or None."""
    import glob
    import shutil

    packaged = sorted(path for pattern in PLACES for path in glob.glob(pattern) if os.access(path, os.X_OK))
    return shutil.which("nsys") or (packaged[-1] if packaged else None)


def run(args):
    import benchmark
    from core.files import UserError, canonical

    program = find()
    if program is None:
        raise UserError("nsys is not installed here (neither on PATH nor in /opt/nvidia): ask for the timeline's .svg")
    stem = f"{args.capture}.new"  # nsys adds its own suffix
    timed = [sys.executable, benchmark.__file__, "--engine", args.engine, "--runtime", args.runtime]
    timed += ["--recipe", canonical({**args.recipe, **TIMING}), "--identity", canonical(args.identity)]
    command = [program, "profile", f"--trace={TRACED}", "--force-overwrite=true", f"--output={stem}"]
    try:
        command += [*timed, "--benchmark", f"{stem}.json"]
        anew = {**os.environ, "LEVIT_BENCHMARKS": ""}  # a kept timing runs no query
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=anew)
        said = done.stdout.decode("utf-8", "replace").strip()
        log.info("%s", said)
        if done.returncode or not os.path.exists(f"{stem}.nsys-rep"):
            last = (said.splitlines() or ["it says nothing"])[-1]
            raise UserError(f"{program} failed with status {done.returncode}: {last}")
        os.replace(f"{stem}.nsys-rep", args.capture)
    finally:
        for left in (f"{stem}.json", provenance.beside(f"{stem}.json"), f"{stem}.nsys-rep", f"{stem}.qdstrm"):
            if os.path.exists(left):
                os.unlink(left)


def command():
    c = Command(__file__, __doc__, modules=lambda args: [f"runtimes/{args.runtime}.py"])
    c.input("--engine").param("--runtime", required=True)
    c.json_param("--recipe", help="JSON").json_param("--identity", help="JSON")
    return c.output("--capture")


if __name__ == "__main__":
    command().run(run)
