"""The jobs behind results as Snakemake plans them: the rules' own command lines, inputs and outputs.

Snakemake is started with the results as targets and writes its plan instead of running it (snakefile/job_list.py).
Every way to a device takes its jobs and lists of files from here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from core import history, provenance
from core.files import STAGED, UserError, read_json

JOBS_FILE = "LEVIT_JOBS_FILE"  # names the file that Snakemake writes its plan to
DEVICE, HOST, ANYWHERE = "device", "host", "anywhere"  # where a job runs


class PlannedJob(NamedTuple):
    """One job of a plan."""

    rule: str
    place: str  # DEVICE, HOST (never on a device) or ANYWHERE (what merges results)
    target: str | None
    argv: list[str]  # after the interpreter; empty for a job of the host
    inputs: dict[str, list[str]]
    code: list[str]  # its script and modules, of a device's job
    outputs: list[str]
    is_timing: bool
    is_result: bool

    @property
    def artifacts(self) -> list[str]:
        """The inputs under results/."""
        return [path for paths in self.inputs.values() for path in paths if path.startswith("results/")]


class Plan(NamedTuple):
    """What Snakemake would run for some results."""

    dataset: str  # the active one
    jobs: list[PlannedJob]  # in an order in which they can run
    products: list[str]  # all that a device could write for these models, precisions and targets

    def at(self, *places: str) -> list[PlannedJob]:
        """Return the jobs that run at some places."""
        return [job for job in self.jobs if job.place in places]

    def result(self, path: str) -> PlannedJob:
        """Return the job that writes a result; raise UserError for another file."""
        jobs = [job for job in self.jobs if job.is_result and os.path.normpath(path) in job.outputs]
        if not jobs:
            raise UserError(f"{path} is not a result: give results/{{model}}.{{precision}}.{{target}}.json")
        return jobs[0]


def plan(results: Iterable[str]) -> Plan:
    """Return Snakemake's plan for some results; raise UserError with its message where it has none."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "jobs.json")
        run_snakemake("--force", "--nolock", "--ignore-incomplete", "--cores", "1", "--", *results, **{JOBS_FILE: path})
        content = read_json(path)
    planned = Plan(content["dataset"], [PlannedJob(**job) for job in content["jobs"]], content["products"])
    for result in results:
        planned.result(result)
    return planned


def inputs_of(jobs: list[PlannedJob]) -> list[str]:
    """Return the sorted artifacts that some jobs read and none of them writes."""
    made = {path for job in jobs for path in job.outputs}
    return sorted(set(itertools.chain.from_iterable(job.artifacts for job in jobs)) - made)


def check_present(paths: Iterable[str]) -> None:
    """Raise UserError where some files are missing."""
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise UserError(f"{len(missing)} files do not exist yet: run snakemake {' '.join(missing)}")


@contextlib.contextmanager
def staging() -> Iterator[str]:
    """Yield a folder on this file system for files that are to be checked before they get their names."""
    os.makedirs(".cache", exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=STAGED, dir=".cache") as folder:
        yield folder


def copy_in(folder: str, files: list[str], remedy: str) -> list[str]:
    """Give checked files in a staging folder their names here; return those that are not records.

    Snakemake records them as outputs of the current rules, so that a later change makes them stale. Raises UserError
    with the remedy where the bytes of one are not those that its record names.
    """
    outputs = [name for name in files if not provenance.is_record(name)]
    provenance.check_all([os.path.join(folder, name) for name in outputs], remedy)
    for name in files:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        if os.path.dirname(name) == "results":
            history.save_file(name)
    provenance.take({os.path.join(folder, name): name for name in files})
    run_snakemake("--touch", "--force", "--no-hooks", "--", *outputs)
    return outputs


def run_snakemake(*arguments: str, **variables: str) -> None:
    """Run Snakemake with further environment variables; raise UserError with its message where it fails."""
    command = [sys.executable, "-m", "snakemake", "--quiet", "all", *arguments]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")] or lines[-1:]
        raise UserError(errors[0] if errors else f"snakemake ended with status {done.returncode} and no message")
