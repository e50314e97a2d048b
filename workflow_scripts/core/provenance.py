"""Records of artifacts: a command (core/command.py) writes PATH.provenance beside each output PATH.

A record is JSON: the SHA-256 of PATH, the command, its key (a hash of everything that decides the bytes), a hash of its
code, the versions of its packages, its context (the properties of the machine that decide the bytes), whether it is a
training, and its lineage: an extract of the records of all artifacts that it was made from. Readers of an artifact
check its bytes against the record.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable

from core.files import UserError, read_json, write_json
from core.user_files import sha256_of

SUFFIX = ".provenance"
INHERITED = ("command", "versions", "context", "trained")  # keys of a record that lineages repeat
FOLDER = "results"  # files below a folder of this name are artifacts
DOORS = {  # folder of an artifact: how config.yaml takes a user's own file instead
    "calibration": "give other ranges as a quantized checkpoint (`calibration: {import: FILE}` of the precision)",
    "models": "give other values in the row of the model (size, crop, mean, ...)",
    "checkpoints": "give other weights as `weights: FILE` of the dataset",
    "pretrained": "give other weights as `from: FILE` of the dataset",
    "plans": "give a plan edited by hand as `fallback: {plan: FILE}` of the precision",
    "qat": "give other ranges as a quantized checkpoint (`calibration: {import: FILE}` of the precision)",
}
log = logging.getLogger("levit")


def beside(path: str) -> str:
    """Return the path of an artifact's record."""
    return f"{path}{SUFFIX}"


def recorded(paths: Iterable[str]) -> list[str]:
    """Return the paths of the existing records of some artifacts."""
    return [beside(path) for path in paths if os.path.exists(beside(path))]


def read(path: str) -> dict | None:
    """Return an artifact's record, or None if it has none; raise UserError for a damaged one."""
    if not os.path.exists(beside(path)):
        return None
    try:
        record = read_json(beside(path))
    except UserError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise UserError(f"{beside(path)} is damaged: delete {path} and make it again")
    return record


def check(path: str) -> dict | None:
    """Return an artifact's record, or None with a warning if it has none; raise UserError if its bytes differ."""
    return check_all([path])[0]


def check_all(paths: Iterable[str], remedy: str = "delete it and run again") -> list[dict | None]:
    """Return the records as `check` does, with one warning for all that lack one; remedy: of changed bytes."""
    paths = [str(path) for path in paths]
    records = [read(path) for path in paths]
    for path, record in zip(paths, records):
        if record and sha256_of(path) != record["sha256"]:
            raise UserError(_refusal(path, record, remedy))
    unknown = [path for path, record in zip(paths, records) if record is None and FOLDER in path.split(os.sep)]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        log.warning("no record says what wrote %s%s: used as is", unknown[0], more)
    return records


def lineage(records: dict[str, dict | None]) -> dict[str, dict]:
    """Return {path: INHERITED keys} of inputs, given as {path: record or None}, and of all they were made from."""
    ancestors: dict[str, dict] = {}
    for path, record in sorted(records.items()):
        if record:
            ancestors.update(record.get("lineage", {}))
            ancestors[path] = {key: record[key] for key in INHERITED if key in record}
    return ancestors


def _refusal(path, record, remedy):
    folder = os.path.basename(os.path.dirname(path))
    door = f"; {DOORS[folder]}" if folder in DOORS else ""
    writer = record.get("command") or "its job"
    return f"{path} is not what {writer} wrote (its bytes have changed since): {remedy}{door}"


def write(path: str, record: dict) -> None:
    """Write the record of an existing artifact."""
    write_json(beside(path), record)


def take(moves: dict[str, str]) -> None:
    """Rename files, {from: to}, records last: a kill at any moment leaves no record of other bytes."""
    for path in moves.values():
        if not is_record(path):
            forget(path)
    for source, path in sorted(moves.items(), key=lambda move: is_record(move[1])):
        os.replace(source, path)


def is_record(path: str) -> bool:
    """Return whether a path is a record's."""
    return path.endswith(SUFFIX)


def forget(path: str) -> None:
    """Remove an artifact's record, before its bytes change: a kill then leaves no record rather than a wrong one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(path))
