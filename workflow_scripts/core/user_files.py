"""The contents of files that rows of config.yaml name, as SHA-256, cached so that a dry run reads none of them twice.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import time
from collections.abc import Iterable

from core.files import sha256_file

CACHE = ".cache/user_files.json"  # {real path: [device, inode, size, mtime_ns, ctime_ns, SHA-256]}; safe to delete
SETTLED = 2.0  # seconds after which another write cannot leave a file's times as they are


def sha256_of(path: str) -> str | None:
    """Return the hex SHA-256 of a file's content, behind links, or None where there is no such file.

    Raises OSError where the file is there and cannot be read.
    """
    return sha256_of_all([path])[0]


def sha256_of_all(paths: Iterable[str]) -> list[str | None]:
    """Return the same of several files."""
    entries = _entries(os.getcwd())
    known = dict(entries)
    found = [_hashed(os.path.realpath(path), entries) for path in paths]
    if entries != known:
        _write(entries)
    return found


def _hashed(real, entries):
    """Return a file's hash, and keep it among the entries where the file's times can be trusted."""
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
    found = os.stat(path)
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@functools.lru_cache(maxsize=None)
def _entries(folder):
    """Return the cache of a folder, which is the one that is worked in; what cannot be read of it counts as absent."""
    try:
        with open(os.path.join(folder, CACHE), encoding="utf-8") as stream:
            return {path: entry for path, entry in json.load(stream).items() if len(entry) == 6}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(entries):
    """Write the cache beside itself and rename it; a folder that takes no file costs the next run another reading."""
    beside = f"{CACHE}.{os.getpid()}"
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(CACHE), exist_ok=True)
        with open(beside, "w", encoding="utf-8") as stream:
            json.dump({path: entry for path, entry in sorted(entries.items()) if os.path.isfile(path)}, stream)
        os.replace(beside, CACHE)
