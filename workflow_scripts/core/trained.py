"""Trained artifacts survive upgrades: their keys ignore package versions, and outputs of pending jobs are saved.

Snakemake removes the outputs of a stale job before it reruns the job. Before its first job, a run therefore hard-links
the trained outputs of pending jobs into FOLDER, a store. The training command finds them there by key, even if the
user's store is gone.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

from core import provenance
from core.files import UserError, digest_of, read_json, sha256_file
from core.store import Store
from core.user_files import sha256_of

FOLDER = ".cache/trained"  # a store of trained outputs whose jobs are pending
ADOPTED = "adopted.json"  # {path: {"sha256", "versions"}} of files that an earlier version of this project trained


def descent(parts: dict, inputs: dict[str, list[str]]) -> str | None:
    """Return a hash of what decides an output except versions of packages, its own and its inputs', or None.

    parts: of the key (core/command.py); inputs: {name: paths}. Inputs that were trained, or have no descent themselves,
    count by content. An output without inputs has no descent.
    """
    hashes = dict(parts["inputs"])
    for name, paths in inputs.items():
        hashes[name] = [_descended(path, digest) for path, digest in zip(paths, hashes[name])]
    lasting = {name: part for name, part in parts.items() if name != "tools"}
    return digest_of({**lasting, "inputs": hashes}) if hashes else None


def _descended(path, digest):
    record = provenance.read(path) or {}
    return digest if record.get("trained") else record.get("descent") or digest


def keep(jobs: Iterable) -> None:
    """Keep the trained outputs of pending Snakemake jobs, before Snakemake removes them."""
    for name, path in [item for job in jobs for item in job.output.items()]:
        keep_file(name, str(path))


def keep_file(name: str, path: str) -> None:
    """Keep an artifact, its command's output `name`, under its descent, unless its bytes differ from its record."""
    try:
        record = provenance.read(path) if os.path.isfile(path) else None
    except UserError:
        return
    if record and record.get("trained") and record.get("descent") and record["sha256"] == sha256_of(path):
        parts = {"tools": record["versions"], **{key: record[key] for key in ("command", "context")}}
        Store(FOLDER).keep(record["descent"], {name: path}, parts)


def adopt(finals: dict[str, str], partials: dict[str, str]) -> dict | None:
    """Copy files that migrate.py adopts to a job's partial paths, and return the versions that trained them.

    finals, partials: {name: path} of the outputs. Return None unless migrate.py runs; raise UserError for an output
    that it does not adopt, since nothing may be trained meanwhile.
    """
    folder = os.environ.get("LEVIT_ADOPT")
    if not folder:
        return None
    adopted = read_json(os.path.join(folder, ADOPTED))
    for name, path in finals.items():
        if path not in adopted:
            raise UserError(f"{path} is not adopted: run snakemake to train it")
        shutil.copyfile(os.path.join(folder, path), partials[name])
        if sha256_file(partials[name]) != adopted[path]["sha256"]:
            raise UserError(f"{path} has changed while it was adopted: run make migrate again")
    return next(adopted[path]["versions"] for path in finals.values())


def forget() -> None:
    """Remove the kept outputs, once all jobs are done."""
    shutil.rmtree(FOLDER, ignore_errors=True)
