"""The files below a folder, each once: no hidden ones, none that a link leads back to, nothing that is no file.

The index and data/watch.py read folders by it alike. Read while Snakemake parses: standard library only, Python 3.8.
"""

import os
import stat

SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")  # folders nobody made
HIDDEN, DANGLING, UNREADABLE, NO_FILE = "hidden", "dangling link", "unreadable", "not a file"
ABOVE, AGAIN = "link to a folder above it", "folder that is read already"


def is_hidden(name):
    """Return whether a file or folder of that name is left out, whatever it holds."""
    return name.startswith(".") or name in SYSTEM


def folders(place):
    """Return the sorted names of the folders in a folder that are not hidden; links count as what they lead to."""
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def files(place, left_out):
    """Yield (path below the folder `place`, os.stat_result) of each file; raise OSError for an unreadable folder.

    Folders that links lead to are read after all others, in the order of the links' names, and none twice.
    left_out: a collections.Counter of reasons, which grows by what is not yielded; a hidden folder counts once.
    """
    seen, pending, links = {_identity(os.stat(place))}, [""], []
    while pending or links:
        if not pending:
            links.sort(reverse=True)
            below, there = links.pop()
            reason = _refusal(os.path.join(place, below), there, seen)
            if reason:
                left_out[reason] += 1
                continue
            seen.add(_identity(there))
            pending.append(below)
        below = pending.pop()
        with os.scandir(os.path.join(place, below)) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}" if below else entry.name
                found, reason = _look(entry)
                if reason:
                    left_out[reason] += 1
                elif not stat.S_ISDIR(found.st_mode):
                    yield path, found
                elif entry.is_symlink():
                    links.append((path, found))
                elif _identity(found) in seen:
                    left_out[AGAIN] += 1
                else:
                    seen.add(_identity(found))
                    pending.append(path)


def _look(entry):
    """Return (os.stat_result, None) of a file or folder that counts, (None, reason) of what does not."""
    if is_hidden(entry.name):
        return None, HIDDEN
    try:
        found = entry.stat()
    except OSError:
        return None, DANGLING if entry.is_symlink() else UNREADABLE
    regular = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return (found, None) if regular else (None, NO_FILE)


def _refusal(link, there, seen):
    """Return why a link to a folder is not followed, or None."""
    real, parent = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    if f"{parent}/".startswith(os.path.join(real, "")):
        return ABOVE
    return AGAIN if _identity(there) in seen else None


def _identity(found):
    return found.st_dev, found.st_ino
