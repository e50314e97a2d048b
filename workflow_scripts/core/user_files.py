"""SHA-256 of files that config.yaml names, cached so that no dry run reads an unchanged file again."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Iterable

from core.files import sha256_file

CACHE = ".cache/user_files.json"  # {real path: [device, inode, size, mtime_ns, ctime_ns, SHA-256]}; safe to delete
SETTLED = 2.0  # seconds after which another write changes a file's times


def sha256_of(path: str) -> str | None:
    """Return the hex SHA-256 of a file, following links, or None without one; raise OSError where it is unreadable."""
    return sha256_of_all([path])[0]


def sha256_of_all(paths: Iterable[str]) -> list[str | None]:
    """Return the hex SHA-256 of each file, or None for one that does not exist."""
    entries = _entries(os.getcwd())
    known = dict(entries)
    digests = [_hashed(os.path.realpath(path), entries) for path in paths]
    if entries != known:
        write_cache(CACHE, {path: entry for path, entry in sorted(entries.items()) if os.path.isfile(path)})
    return digests


def _hashed(real, entries):
    """Return a file's hash, and add it to the entries if the file is old enough for its times to be trusted."""
    if not os.path.isfile(real):
        return None
    stamp = _stamp(real)
    if entries.get(real, [])[:-1] == stamp:
        return entries[real][-1]
    digest = sha256_file(real)
    if stamp == _stamp(real) and time.time() - max(stamp[3:]) / 1e9 > SETTLED:
        entries[real] = [*stamp, digest]
    return digest


def _stamp(path):
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


@functools.lru_cache(maxsize=None)
def _entries(folder):
    return read_cache(os.path.join(folder, CACHE), fields=6)


def read_cache(path: str, fields: int) -> dict[str, list]:
    """Return a cache, {name: list of `fields` values}; unreadable content counts as absent."""
    try:
        with open(path, encoding="utf-8") as stream:
            return {name: entry for name, entry in json.load(stream).items() if len(entry) == fields}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def write_cache(path: str, entries: dict[str, list]) -> None:
    """Replace a cache; if the folder is not writable, the next run finds its entries out again."""
    beside = f"{path}.{os.getpid()}"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(beside, "w", encoding="utf-8") as stream:
            json.dump(entries, stream)
        os.replace(beside, path)
