"""The folders below a dataset's, without a look at the entries of those that have not changed.

Finding them among a million files means reading every entry. Adding, removing or renaming an entry changes a folder's
times, so what was found in it holds as long as they do.
"""

from __future__ import annotations

import hashlib
import os
import time

from core.user_files import SETTLED, read_cache, write_cache
from data import walk

CACHE = ".cache/folders"  # a file of {path of a folder: [mtime_ns, ctime_ns, [name of a folder in it]]}; safe to delete


def below(top: str) -> dict[str, os.stat_result | None]:
    """Return {path: status, or None for a broken link} of a folder and all below it, links followed; raise OSError."""
    file = os.path.join(CACHE, hashlib.sha256(os.path.realpath(top).encode("utf-8", "surrogateescape")).hexdigest())
    known, entries, visited, pending, statuses = read_cache(file, fields=3), {}, set(), [top], {}
    while pending:
        path = pending.pop()
        status = statuses[path] = _status(path)
        if status and (status.st_dev, status.st_ino) not in visited:
            visited.add((status.st_dev, status.st_ino))
            entries[path] = _entry(path, status, known.get(path))
            pending += [os.path.join(path, name) for name in entries[path][-1]]
    if entries != known:
        write_cache(file, entries)
    return statuses


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
