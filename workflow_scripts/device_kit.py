"""Take jobs to a host that has only Python and TensorRT (numpy, Pillow, CUDA bindings), and copy their outputs back.

    snakemake $(python workflow_scripts/device_kit.py needs results/LeViT-128S.fp16.xavier.json)     # here
    python workflow_scripts/device_kit.py pack --kit kit.tar results/LeViT-128S.fp16.xavier.json     # here
    tar -xf kit.tar && python3 workflow_scripts/device_kit.py run                                    # there
    python workflow_scripts/device_kit.py unpack outputs.tar                                         # here again

A kit holds the target's jobs of the results, as the rules write their command lines, with their inputs and code; the
kit of a choice (`auto`) covers every candidate. `run` skips jobs that it has done, of this kit or of an earlier one in
the same folder, so it resumes an interrupted run. `unpack` refuses outputs of other inputs, recipes or code than those
that are here now, and lets Snakemake record the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from core import provenance, sources
from core.files import UserError, canonical, digest_of, one_line, read_json, sha256_file, write_json
from devices import result_jobs

KIT, OUTPUTS, IDENTITY = "kit.json", "outputs.tar", "{identity}"
DONE = ".cache/kit.json"  # {output: hash of all that decided the job that wrote it}


def jobs_of(plan: result_jobs.Plan) -> list[dict]:
    """Return a plan's jobs on its targets, those that record an identity first.

    A job is {"argv", "outputs", "target", "code"}; code: a hash of the text of its modules.
    """
    ordered = sorted(plan.at(result_jobs.DEVICE), key=lambda job: job.outputs != [_identity_path(job.target)])
    return [
        {"argv": _argv(job), "outputs": job.outputs, "target": job.target, "code": sources.text_hash(job.code)}
        for job in ordered
    ]


def _argv(job):
    """Return a job's command line with a placeholder for the identity that the device has yet to record."""
    pairs = zip(["", *job.argv], job.argv)
    return [IDENTITY if flag == "--identity" and word not in job.outputs else word for flag, word in pairs]


def _identity_path(target):
    return f"results/targets/{target}.json"


def needs(results: list[str]) -> list[str]:
    """Return the sorted artifacts that the target's jobs of some results read."""
    return result_jobs.inputs_of(result_jobs.plan(results).at(result_jobs.DEVICE))


def pack(results: list[str], kit: str) -> None:
    """Write a tar of the target's jobs of some results, their inputs and their code."""
    plan = result_jobs.plan(results)
    planned, jobs = plan.at(result_jobs.DEVICE), jobs_of(plan)
    inputs = result_jobs.inputs_of(planned)
    result_jobs.check_present(inputs)
    provenance.check_all(inputs)
    code = {path for job in planned for path in job.code}
    code.update(str(path.relative_to(sources.ROOT.parent)) for path in sources.closure("device_kit.py"))
    described = {"results": list(results), "jobs": jobs, "inputs": {path: sha256_file(path) for path in inputs}}
    _archive(kit, described, sorted({*inputs, *provenance.recorded(inputs), *code}))
    print(f"{kit}: {len(jobs)} jobs, {os.path.getsize(kit) / 1e6:.1f} MB")


def run() -> None:
    """Run the pending jobs of an unpacked kit in this interpreter, and write their outputs to a tar."""
    if not os.path.exists(KIT):
        raise UserError(f"there is no {KIT} in {os.getcwd()}: unpack a kit here (tar -xf kit.tar)")
    kit, failed, outputs = parse_kit(KIT, Path(KIT).read_bytes()), [], []
    done = read_json(DONE) if os.path.exists(DONE) else {}
    environment = {"LEVIT_TIMING_CACHES": ".cache/timing", "LEVIT_BENCHMARKS": ".cache/benchmarks", **os.environ}
    python = os.environ.get("LEVIT_PYTHON") or sys.executable
    for job in kit["jobs"]:
        argv = [_identity(job["target"]) if word == IDENTITY else word for word in job["argv"]]
        basis = digest_of([argv, job.get("code"), {path: sha256_file(path) for path in _read_by(argv, job["outputs"])}])
        if not all(os.path.exists(path) and done.get(path) == basis for path in job["outputs"]):
            print(f"{os.path.basename(argv[0])}: {job['outputs'][0]}", flush=True)
            if subprocess.run([python, *argv], env=environment, check=False).returncode:
                failed.append(job["outputs"][0])
                continue
            done.update(dict.fromkeys(job["outputs"], basis))
            write_json(DONE, done)
        outputs += job["outputs"]
    files = sorted({*outputs, *provenance.recorded(outputs)})
    _archive(OUTPUTS, {**kit, "files": files}, files)
    print(f"{OUTPUTS}: {len(set(outputs))} files")
    if failed:
        raise UserError(f"{len(failed)} jobs failed, the first for {failed[0]}: see results/logs/")


def _read_by(argv, outputs):
    """Return the artifacts that a command line names and does not write."""
    named = {word.rpartition("=")[2] for word in argv}
    artifacts = {path for path in named - {*outputs} if path.startswith("results/") and os.path.isfile(path)}
    return sorted(path for path in artifacts if not path.startswith("results/logs/"))


def _identity(target):
    path = _identity_path(target)
    return canonical(read_json(path)) if os.path.exists(path) else "null"


def _archive(path, kit, files):
    with tarfile.open(path, "w") as archive, tempfile.TemporaryDirectory() as folder:
        write_json(os.path.join(folder, KIT), kit)
        archive.add(os.path.join(folder, KIT), KIT)
        for file in files:
            archive.add(file)


def parse_kit(path: str, data: bytes) -> dict:
    """Return the description of a kit from the bytes of its file; raise UserError for a damaged or older one."""
    try:
        kit = json.loads(data.decode("utf-8"))
        jobs = [(job["argv"][0], job["target"], job["outputs"][0]) for job in kit["jobs"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        jobs = None
    if not jobs or not isinstance(kit.get("inputs"), dict) or not isinstance(kit.get("results"), list):
        raise UserError(f"{path} is not the description of a kit of this version: pack another kit")
    return kit


def unpack(path: str) -> None:
    """Copy in the outputs of a kit's jobs where they belong to the current inputs and recipes, and tell Snakemake."""
    with result_jobs.staging() as folder:
        kit, files = _extract(path, folder)
        remedy = f"fetch {path} again; where it is so on the target, delete it there and run again"
        outputs = result_jobs.copy_in(folder, files, remedy)
    print(f"{len(outputs)} files; now: snakemake {' '.join(kit['results'])}")


def _extract(path, folder):
    """Extract the outputs of a kit's jobs into a folder; return (the kit's description, the sorted names of files)."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name: member for member in archive.getmembers() if member.isfile()}
            if KIT not in members:
                raise UserError(f"{path} has no {KIT}: give the {OUTPUTS} that `device_kit.py run` wrote")
            kit = parse_kit(f"{path}: {KIT}", archive.extractfile(members[KIT]).read())  # type: ignore[union-attr]
            _check_unchanged(kit)
            outputs = {name for job in kit["jobs"] for name in job["outputs"]}
            files = sorted(members.keys() & {*outputs, *map(provenance.beside, outputs)})
            if files != kit.get("files", files):
                raise UserError(f"{path} lacks files that {KIT} in it names: fetch it again from the target")
            archive.extractall(folder, [members[name] for name in files], filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is not a whole tar ({error}): fetch it again from the target") from None
    return kit, files


def _check_unchanged(kit):
    """Raise UserError where config.yaml or an input has changed since a kit was packed."""
    planned = jobs_of(result_jobs.plan(kit["results"]))
    for job in kit["jobs"]:  # of an older version of this project, without a hash of its code
        if not any({**each, **job} == each for each in planned):
            stale = f"since the kit was packed ({job['outputs'][0]})"
            raise UserError(f"config.yaml or the code has changed {stale}: pack another")
    for path, digest in kit["inputs"].items():
        if not os.path.exists(path) or sha256_file(path) != digest:
            raise UserError(f"{path} has changed since the kit was packed: pack another")


def main() -> None:
    """Parse the command line and run one of the four steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    packing, needing = steps.add_parser("pack"), steps.add_parser("needs")
    packing.add_argument("--kit", default="kit.tar")
    for step in (packing, needing):
        step.add_argument("results", nargs="+")
    steps.add_parser("run")
    steps.add_parser("unpack").add_argument("outputs")
    args = parser.parse_args()
    if args.step == "pack":
        pack(args.results, args.kit)
    elif args.step == "needs":
        print(" ".join(needs(args.results)))
    elif args.step == "run":
        run()
    else:
        unpack(args.outputs)


if __name__ == "__main__":
    one_line(main)
