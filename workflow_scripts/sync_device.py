"""Copy artifacts with rsync between the host and a device that runs the workflow itself (`site: device`).

    python workflow_scripts/sync_device.py to   USER@DEVICE:FOLDER results/LeViT-128S.fp16.xavier.json  # on the host
    snakemake --workflow-profile profiles/device results/LeViT-128S.fp16.xavier.json                 # on the device
    python workflow_scripts/sync_device.py from USER@DEVICE:FOLDER results/LeViT-128S.fp16.xavier.json  # on the host

FOLDER holds a checkout of the same commit. `to` copies what the device's jobs read, and Snakemake's records of it, so
that the device knows what became stale. `from` copies the device's outputs without Snakemake's records of them; it
refuses results of other inputs or recipes than the host's, and lets Snakemake record the rest. Files are compared by
content and get the time of their arrival: nothing depends on the clocks of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from pathlib import Path

from core import provenance, sources
from core.files import UserError, canonical, digest_of, one_line, read_json, sha256_file
from devices import result_jobs
from snakefile.staleness import record_of

# values whose SHA-256 a result's provenance has: the inputs that they may be of
LINEAGE = {"checkpoint": ("checkpoint",), "graph": ("graph", "fused"), "calibration": ("calibration",)}
RUNTIME = "--runtime"  # of the command lines of engine_command (core/command.py)
UNTIMED = ["--recursive", "--links", "--checksum", "--prune-empty-dirs"]


def read_on_device(plan: result_jobs.Plan) -> list[str]:
    """Return the sorted artifacts of the host's that a device's jobs read."""
    return result_jobs.inputs_of(plan.at(result_jobs.DEVICE, result_jobs.ANYWHERE))


def records(plan: result_jobs.Plan) -> list[str]:
    """Return the paths of what Snakemake recorded of the host's artifacts in a plan.

    A calibration cache's is left out: its version of TensorRT is a guess until the device reports its own.
    """
    outputs = [path for job in plan.at(result_jobs.HOST) for path in job.outputs if not path.endswith(".cache")]
    return sorted(filter(os.path.isfile, map(record_of, outputs)))


def copy_to(place: str, results: list[str]) -> None:
    """Copy what a device's jobs read; raise UserError where the host has not built it."""
    plan = result_jobs.plan(results)
    paths = read_on_device(plan)
    result_jobs.check_present(paths)
    provenance.check_all(paths)
    listed = "\n".join(paths + provenance.recorded(paths) + records(plan))
    sent = set(rsync([*UNTIMED, "--files-from=-", ".", _folder(place)], listed))
    print(f"{place}: {len(paths)} files are there, {len(sent.intersection(paths))} of them are new")


def copy_from(place: str, results: list[str]) -> None:
    """Copy in a device's outputs where they belong to the current inputs and recipes, and tell Snakemake."""
    plan = result_jobs.plan(results)
    with result_jobs.staging() as folder:
        rsync([*UNTIMED, *_filters(plan.products), f"{_folder(place)}results", folder], "")
        for job in plan.jobs:
            if job.rule == "assemble_result":
                check(os.path.join(folder, job.outputs[0]), job)
        for job in plan.at(result_jobs.DEVICE):
            if RUNTIME in job.argv:
                check_code(folder, job)
        files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
        remedy = "copy it again; where it is so on the device, delete it there and run again"
        outputs = result_jobs.copy_in(folder, files, remedy)
    print(f"{len(outputs)} files; now: snakemake {' '.join(results)}")


def check(path: str, job: result_jobs.PlannedJob) -> None:
    """Raise UserError where a device's result, the file `path`, has other inputs or rows than the host's job for it."""
    result = job.outputs[0]
    if not os.path.exists(path):
        raise UserError(f"{result} is not built there: run snakemake --workflow-profile profiles/device {result} on it")
    content = read_json(path)
    recorded = content.get("provenance") if isinstance(content, dict) else None
    if not isinstance(recorded, dict) or "recipe" not in recorded:
        raise UserError(f"{result} there is no result with a provenance: delete it there and run it again")
    for name, several in LINEAGE.items():
        files = [file for each in several for file in job.inputs.get(each, ())]
        here = [sha256_file(file) for file in files if os.path.exists(file)]
        if files and recorded.get(f"{name}_sha256") not in here:
            raise UserError(f"{result} was built there from another {files[0]}: copy it there, and run it again")
    if canonical(recorded["recipe"]) != canonical(json.loads(job.argv[job.argv.index("--recipe") + 1])):
        raise UserError(f"{result} was built there with another config.yaml: make both alike, and run it again")


def check_code(folder: str, job: result_jobs.PlannedJob) -> None:
    """Raise UserError where other code than is here made the outputs of a runtime's job; folder: of their copies."""
    runtime = job.argv[job.argv.index(RUNTIME) + 1]
    code = sources.closure(os.path.basename(job.argv[0]), f"runtimes/{runtime}.py")
    here = digest_of({str(path.relative_to(sources.ROOT)): sources.code_hash(path) for path in code})
    for output in job.outputs:
        record = provenance.read(os.path.join(folder, output))
        if record and record.get("code", here) != here:
            raise UserError(f"{output} was made there by other code than is here: make both alike, and run it again")


def _filters(paths):
    """Return rsync's filters for some files and their records, from the folder that holds results/ on."""
    folders = {f"/{folder}/" for path in paths for folder in Path(path).parents if folder.name}
    files = {f"/{path}{suffix}" for path in paths for suffix in ("", provenance.SUFFIX)}
    return [f"--include={pattern}" for pattern in sorted(folders | files)] + ["--exclude=*"]


def _folder(place):
    return place if place.endswith("/") else f"{place}/"


def rsync(arguments: list[str], listed: str) -> list[str]:
    """Run rsync with a list on its standard input; return the names that it copied, or raise UserError."""
    program = shutil.which("rsync")
    if program is None:
        raise UserError("rsync is not installed here: apt-get install rsync, here and on the device")
    done = subprocess.run([program, "--out-format=%n", *arguments], input=listed.encode(), capture_output=True)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise UserError(f"rsync failed with status {done.returncode}: {lines[0]}")
    return done.stdout.decode("utf-8", "replace").splitlines()


def main() -> None:
    """Parse the command line and copy in one direction."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("direction", choices=["to", "from"])
    parser.add_argument("place", help="the device's folder, as rsync takes it")
    parser.add_argument("results", nargs="+")
    args = parser.parse_args()
    (copy_to if args.direction == "to" else copy_from)(args.place, args.results)


if __name__ == "__main__":
    one_line(main)
