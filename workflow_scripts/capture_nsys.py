"""Capture an engine's queries with NVIDIA's Nsight Systems: CUDA calls, kernels and copies, for its own viewer.

The recipe is {"batches", "threads"?}. The capture covers the whole process, in which each batch size is warmed up and
then queried for a second (measure/queries.py).
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile

from core.command import Command, Job, engine_command, log
from core.files import UserError
from core.sources import ROOT

PLACES = [f"/opt/nvidia/nsight-systems{kind}/*/bin/nsys" for kind in ("", "-cli")]  # JetPack's, not on PATH
TRACED = "cuda,nvtx,cudnn,cublas,osrt"


def find() -> str | None:
    """Return the path of nsys, the newest of those that are not on PATH, or None."""
    packaged = sorted(path for pattern in PLACES for path in glob.glob(pattern) if os.access(path, os.X_OK))
    return shutil.which("nsys") or (packaged[-1] if packaged else None)


def run(args: Job) -> None:
    import runtimes
    from measure import queries

    program = find()
    if program is None:
        raise UserError("nsys is not installed here (neither on PATH nor in /opt/nvidia): ask for the timeline's .svg")
    runtimes.load(args.runtime, args.plugin)  # the process that is captured loads it as well
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(".partial", dir=os.path.dirname(os.path.abspath(args.capture))) as folder:
        stem = os.path.join(folder, "capture")  # nsys adds its own suffix
        command = [program, "profile", f"--trace={TRACED}", f"--output={stem}"]
        command += queries.command(args.runtime, args.engine, args.recipe)
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        output = done.stdout.decode("utf-8", "replace").strip()
        log.info("%s", output)
        if done.returncode or not os.path.exists(f"{stem}.nsys-rep"):
            last = (output.splitlines() or ["it printed nothing"])[-1]
            raise UserError(f"{program} failed with status {done.returncode}: {last}")
        os.replace(f"{stem}.nsys-rep", args.capture)


def command() -> Command:
    return engine_command(__file__, __doc__, timed=True).input("--engine").output("--capture")


if __name__ == "__main__":
    command().run(run)
