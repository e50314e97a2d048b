"""Walk the files below a folder, each once: hidden entries, links back and special files are left out.

The index and snakefile/image_stamp.py share it. Imported while Snakemake parses: standard library only, Python 3.8.
"""

from __future__ import annotations

import collections
import os
import stat
from collections.abc import Iterator

SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")  # made by no user
HIDDEN, DANGLING, UNREADABLE, NO_FILE = "hidden", "dangling link", "unreadable", "not a file"
ABOVE, AGAIN = "link to a folder above it", "folder that is read already"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name is left out."""
    return name.startswith(".") or name in SYSTEM


def folders(place: str) -> list[str]:
    """Return the sorted names of the visible folders in a folder; links are followed."""
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def files(place: str, left_out: collections.Counter) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path below the folder `place`, status) of each file; raise OSError if a folder is unreadable.

    Linked folders come after all others, in the order of the links' names, and none twice.
    left_out: counts of reasons, increased by each entry that is not yielded; a hidden folder counts once.
    """
    visited, pending, links = {_identity(os.stat(place))}, [""], []
    while pending or links:
        if not pending:
            links.sort(reverse=True)
            below, there = links.pop()
            reason = _refusal(os.path.join(place, below), there, visited)
            if reason:
                left_out[reason] += 1
                continue
            visited.add(_identity(there))
            pending.append(below)
        below = pending.pop()
        with os.scandir(os.path.join(place, below)) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                status, reason = _look(entry)
                if reason:
                    left_out[reason] += 1
                elif not stat.S_ISDIR(status.st_mode):
                    yield path, status
                elif entry.is_symlink():
                    links.append((path, status))
                elif _identity(status) in visited:
                    left_out[AGAIN] += 1
                else:
                    visited.add(_identity(status))
                    pending.append(path)


def _look(entry):
    """Return (os.stat_result, None) of a file or folder, or (None, reason) of an entry that is left out."""
    if is_hidden(entry.name):
        return None, HIDDEN
    try:
        status = entry.stat()
    except OSError:
        return None, DANGLING if entry.is_symlink() else UNREADABLE
    regular = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
    return (status, None) if regular else (None, NO_FILE)


def _refusal(link, there, visited):
    """Return why a link to a folder is not followed, or None."""
    real, parent = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    if f"{parent}/".startswith(os.path.join(real, "")):
        return ABOVE
    return AGAIN if _identity(there) in visited else None


def _identity(status):
    return status.st_dev, status.st_ino
