"""What took training outlives an upgrade: its key knows no versions, and it is kept while its job is pending.

Snakemake reruns what follows a job that an upgrade made stale, and removes its outputs first. So a run gives what was
trained a second name before its first job; the training's command finds it there by its key, whatever became of the
store. Read while Snakemake parses: standard library only, Python 3.8.
"""

import os
import shutil

from core import provenance
from core.files import UserError, digest_of, read_json, sha256_file
from core.store import Store
from core.user_files import sha256_of

FOLDER = ".cache/trained"  # a store of what is trained and pending
ADOPTED = "adopted.json"  # {path: {"sha256", "versions"}} of what an earlier version trained


def descent(parts, inputs):
    """Return a hash of what decides an output but for versions of packages, its own and those of what it is made of.

    parts: those of the whole key; inputs: {name: paths}. What is trained, or made of no file, counts by its bytes.
    """
    hashes = dict(parts["inputs"])
    for name, paths in inputs.items():
        hashes[name] = [_descended(path, digest) for path, digest in zip(paths, hashes[name])]
    lasting = {name: part for name, part in parts.items() if name != "tools"}
    return digest_of({**lasting, "inputs": hashes}) if hashes else None


def _descended(path, digest):
    record = provenance.read(path) or {}
    return digest if record.get("trained") else record.get("descent") or digest


def keep(jobs):
    """Give what was trained a second name where its job is pending, before Snakemake removes it."""
    for name, path in [item for job in jobs for item in job.output.items()]:
        keep_file(name, str(path))


def keep_file(name, path):
    """Keep an artifact, the output `name` of its command, under its descent; one of other bytes is left."""
    try:
        record = provenance.read(path) if os.path.isfile(path) else None
    except UserError:
        return
    if record and record.get("trained") and record.get("descent") and record["sha256"] == sha256_of(path):
        parts = {"tools": record["versions"], **{key: record[key] for key in ("command", "context")}}
        Store(FOLDER).keep(record["descent"], {name: path}, parts)


def adopt(finals, partials):
    """Take an earlier version's file as the output of its job, where migrate.py runs: return its versions, else None.

    Raise UserError where there is none: nothing is trained meanwhile.
    """
    folder = os.environ.get("LEVIT_ADOPT")
    if not folder:
        return None
    told = read_json(os.path.join(folder, ADOPTED))
    for name, path in finals.items():
        if path not in told:
            raise UserError(f"{path} is not adopted: run snakemake to train it")
        shutil.copyfile(os.path.join(folder, path), partials[name])
        if sha256_file(partials[name]) != told[path]["sha256"]:
            raise UserError(f"{path} has changed while it was adopted: run make migrate again")
    return next(told[path]["versions"] for path in finals.values())


def forget():
    """Remove what was kept: all jobs are done."""
    shutil.rmtree(FOLDER, ignore_errors=True)
