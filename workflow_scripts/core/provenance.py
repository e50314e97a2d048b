"""What made an artifact: beside each output PATH of a command (core/command.py) stands its record, PATH.provenance.

A record is JSON: the SHA-256 of PATH, the command, its key (a hash of all that decides the bytes), a hash of its code,
the versions of the packages that it ran with, its context (what of the machine decides the bytes), whether that was
training, and its lineage: what the records of its inputs say, and of theirs. Whoever reads an artifact checks its bytes
against the record. Read by hosts and devices alike: standard library only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable

from core.files import UserError, write_json
from core.user_files import sha256_of

SUFFIX = ".provenance"
INHERITED = ("command", "versions", "context", "trained")  # of a record, what its descendants' lineage repeats
FOLDER = "results"  # what is below a folder of this name is an artifact
DOORS = {  # folder of an artifact: where config.yaml takes one that was made or changed by hand
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
    """Return the records that are there of some artifacts: what travels with them."""
    return [beside(path) for path in paths if os.path.exists(beside(path))]


def read(path: str) -> dict | None:
    """Return an artifact's record, or None where there is none; raise UserError for a damaged one."""
    try:
        with open(beside(path), encoding="utf-8") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        raise UserError(f"{beside(path)} is damaged: delete {path} and make it again")
    return record


def check(path: str) -> dict | None:
    """Return the record of an artifact, or None and a warning where it has none; raise UserError for other bytes."""
    return check_all([path])[0]


def check_all(paths: Iterable[str], remedy: str = "delete it and run again") -> list[dict | None]:
    """Return the record of each artifact as `check` does, with one warning for all under results/ that have none.

    remedy: what to do about one whose bytes have changed.
    """
    paths = [str(path) for path in paths]
    records = [read(path) for path in paths]
    for path, record in zip(paths, records):
        if record and sha256_of(path) != record["sha256"]:
            raise UserError(_refusal(path, record, remedy))
    unknown = [path for path, record in zip(paths, records) if record is None and FOLDER in path.split(os.sep)]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        log.warning("warning: no record says what made %s%s: taken as is", unknown[0], more)
    return records


def lineage(records: dict[str, dict | None]) -> dict[str, dict]:
    """Return {path: what is INHERITED} of inputs, {path: its record, or None}, and of all that they were made of."""
    found = {}
    for path, record in sorted(records.items()):
        if record:
            found.update(record.get("lineage", {}))
            found[path] = {key: record[key] for key in INHERITED if key in record}
    return found


def _refusal(path, record, remedy):
    folder = os.path.basename(os.path.dirname(path))
    door = f"; {DOORS[folder]}" if folder in DOORS else ""
    writer = record.get("command") or "its job"
    return f"{path} is not what {writer} wrote (its bytes have changed since): {remedy}{door}"


def write(path: str, record: dict) -> None:
    """Write the record of an artifact that is there."""
    write_json(beside(path), record)


def take(moves: dict[str, str]) -> None:
    """Rename finished files, {where it is: its name}, among them records: a kill leaves no record of other bytes."""
    artifacts = {place: name for place, name in moves.items() if not is_record(name)}
    for name in artifacts.values():
        forget(name)
    for place, name in [*artifacts.items(), *(move for move in moves.items() if is_record(move[1]))]:
        os.replace(place, name)


def is_record(path: str) -> bool:
    """Return whether a path is that of a record."""
    return path.endswith(SUFFIX)


def forget(path: str) -> None:
    """Remove an artifact's record, before other bytes get its name: a kill then leaves no record, not a wrong one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside(path))
