"""SIGKILL in the middle of real jobs: the next run completes, to the bytes of a run that nobody killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

from core.files import sha256_file
from workflow import SNAKEMAKE, Workflow

RESULT = "results/digits/engines/LeViT-tiny.int8_qat.cpu.engine"
EQUAL = (".pth", ".onnx", ".u8", ".npy", "qat.json", ".tsv")  # ends of artifacts without a time or a measurement
START = 6.0  # seconds in which Snakemake starts


def small(config):
    """Make the embedded pipeline a matter of seconds."""
    training = config["datasets"]["digits"]["training"]
    training.update(epochs=1, small_epochs=0)
    config["store"] = None


def fresh(folder):
    workflow = Workflow.fresh(folder)
    workflow.config(small)
    return workflow


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEVIT_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def start(workflow):
    return subprocess.Popen(
        [SNAKEMAKE, "--quiet", "--cores", "1", "--", RESULT],
        cwd=workflow.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def hashes(workflow):
    """Return {path: SHA-256} of the artifacts whose bytes are the same in every run."""
    files = workflow.path("results").rglob("*")
    return {
        str(path.relative_to(workflow.folder)): sha256_file(path)
        for path in files
        if path.is_file() and path.name.endswith(EQUAL) and "/logs/" not in str(path)
    }


def run(folder, count, seed=0):
    """Kill a run `count` times, each time somewhere in its whole length; return (counts, problems)."""
    whole = fresh(folder / "whole")
    began = time.monotonic()
    process = start(whole)
    output, _ = process.communicate(timeout=1200)
    length = time.monotonic() - began
    if process.returncode:
        return {"kills": 0}, [f"the run that nobody kills ends with {process.returncode}: {output[-300:]}"]
    wanted, moments = hashes(whole), random.Random(seed)
    killed, rounds, problems = 0, 0, []
    while killed < count:
        rounds += 1
        workflow = fresh(folder / f"round{rounds}")
        while killed < count:
            process = start(workflow)
            try:
                process.communicate(timeout=START / 2 + moments.random() * length / 3)
                break  # it came to its end
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                killed += 1
        output, _ = start(workflow).communicate(timeout=1200)
        found = hashes(workflow)
        problems += [f"round {rounds}: {path} differs" for path in sorted(wanted) if found.get(path) != wanted[path]]
        if "Traceback" in output:
            problems.append(f"round {rounds}: a traceback: {output[-300:]}")
        print(f"{killed} of {count} kills, {rounds} completions, {len(problems)} problems", file=sys.stderr, flush=True)
        shutil.rmtree(workflow.folder)
    equal = f"artifacts of equal bytes after each of {rounds} completions"
    return {"kills": killed, equal: 0 if problems else len(wanted)}, problems
