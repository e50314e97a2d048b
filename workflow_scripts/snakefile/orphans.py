"""SLURM's jobs of a run of this folder whose Snakemake was killed: those that wait are cancelled, others awaited."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from core.files import UserError
from snakefile import restart

PREFIX = "levit_"  # of names of jobs: `slurm-jobname-prefix` in profiles/slurm/config.yaml
PAUSE = 5  # seconds


def adopt() -> None:
    """Wait for such jobs to end, then start Snakemake again: their outputs are made."""
    running = _running()
    if not running:
        return
    numbers = " ".join(running)
    text = f"{len(running)} submissions of a run that was killed are at work: waiting for them (or scancel {numbers})"
    print(text, file=sys.stderr, flush=True)
    while _running():
        time.sleep(PAUSE)
    restart.again({})


def _running():
    """Cancel such jobs that have not begun; return the numbers of the others."""
    jobs = [line.split("|") for line in _slurm("squeue", "--me", "--noheader", "--format=%i|%T|%j|%Z").splitlines()]
    ours = [(number, state) for number, state, name, folder in jobs if name.startswith(PREFIX) and _is_here(folder)]
    waiting = [number for number, state in ours if state == "PENDING"]
    if waiting:
        _slurm("scancel", *waiting)
    return [number for number, state in ours if state != "PENDING"]


def _is_here(folder):
    return os.path.realpath(folder) == os.path.realpath(os.getcwd())


def _slurm(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
    except FileNotFoundError:  # another cluster than SLURM's
        return ""
    except subprocess.SubprocessError:
        raise UserError(f"SLURM does not answer {command[0]}, which tells of a killed run's jobs: try again") from None
