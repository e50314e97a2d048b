"""The folders below a dataset's, without a look at the entries of those that have not changed.

Finding them among a million files means reading every entry. Adding, removing or renaming an entry changes a folder's
times, so what was found in it holds as long as they do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time

from core.user_files import SETTLED
from data import walk

CACHE = ".cache/folders"  # a file of {path of a folder: [mtime_ns, ctime_ns, [name of a folder in it]]}; safe to delete


def below(top: str) -> dict[str, os.stat_result | None]:
    """Return {path: status, or None for a link to nothing} of a folder and of all below it; links are followed.

    Raises OSError where a folder cannot be read.
    """
    file = os.path.join(CACHE, hashlib.sha256(os.path.realpath(top).encode("utf-8", "surrogateescape")).hexdigest())
    known, entries, visited, pending, found = _read(file), {}, set(), [top], {}
    while pending:
        path = pending.pop()
        status = found[path] = _status(path)
        if status and (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            entries[path] = _entry(path, status, known.get(path))
            pending += [os.path.join(path, name) for name in entries[path][-1]]
    if entries != known:
        _write(file, entries)
    return found


def _status(path):
    try:
        return os.stat(path)
    except OSError:  # the index says what is wrong
        return None


def _entry(path, status, known):
    """Return a folder's entry of the cache; its times are None if it may change again within their resolution."""
    times = [status.st_mtime_ns, status.st_ctime_ns]
    if known and known[:2] == times:
        return known
    with os.scandir(path) as several:
        names = sorted(each.name for each in several if not walk.is_hidden(each.name) and _may_be_folder(each))
    return [*(times if time.time() - max(times) / 1e9 > SETTLED else (None, None)), names]


def _may_be_folder(entry):
    return entry.is_dir() or (entry.is_symlink() and not os.path.exists(entry.path))


def _read(file):
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return {}


def _write(file, entries):
    """Replace the cache; if the folder is not writable, the next run reads the entries again."""
    beside = f"{file}.{os.getpid()}"
    with contextlib.suppress(OSError):
        os.makedirs(CACHE, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as stream:
            json.dump(entries, stream)
        os.replace(beside, file)
