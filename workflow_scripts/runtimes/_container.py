"""Engine files that record what they were built for: an uncompressed zip of engine.json and parts, reproducible.

engine.json is {"format": 1, "runtime", "version", "architecture", "isa", ...}. A zip checks each part's CRC when it is
read, so a truncated or damaged engine is known as such. `unzip -p FILE engine.json` shows the header.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from typing import Any

from core.files import UserError, canonical

HEADER = "engine.json"
FORMAT = 1
BOUND = ("version", "architecture", "isa")  # what an engine may depend on: those that its header has
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError, NotImplementedError)


def write(path: str, header: dict, parts: dict[str, bytes]) -> None:
    """Write an engine file."""
    members = {HEADER: canonical({"format": FORMAT, **header}).encode(), **parts}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo's own date is 1980-01-01


def is_container(path: str) -> bool:
    """Return whether a file starts as an engine file does."""
    with open(path, "rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def read(path: str, fingerprint: dict) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return (header, parts); raise UserError if the file is damaged, or not made for what `fingerprint` describes."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        header = json.loads(parts.pop(HEADER).decode("utf-8"))
        kind = header["format"], header["runtime"]
    except DAMAGE:
        raise UserError(f"{path} is not a whole engine file (truncated or damaged): delete it and run again") from None
    if kind != (FORMAT, fingerprint["runtime"]):
        raise UserError(f"{path} is an engine of {kind[1]} (format {kind[0]}), not of {fingerprint['runtime']}")
    for key in BOUND:
        if key in header and header[key] != fingerprint.get(key):
            built, here = _difference(header[key], fingerprint.get(key))
            raise UserError(f"{path} was built for {key} {built}, and here it is {here}: delete it and run again")
    return header, parts


def _difference(built, here):
    """Return both values as text, lists without what they share."""
    if isinstance(built, list) and isinstance(here, list):
        return [" ".join(x for x in one if x not in other) or "less" for one, other in ((built, here), (here, built))]
    return built, here
