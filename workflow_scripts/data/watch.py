"""What can be seen of a user's images without reading them, so that a change to them makes their index stale.

Of up to FEW images each one's size and time of change is looked at, so that an image edited in place is noticed too.
Of more, a dry run would take too long: then the times of the folders are, which change when an image is added,
removed, renamed or replaced by another file, but not when its bytes are overwritten. Decoding notices those: it holds
each image to the SHA-256 in the index. Read while Snakemake parses: standard library only, Python 3.8.
"""

import hashlib
import os

from user_files import sha256_of

FEW = 10000
LISTS = ("labels", "synsets")  # keys of a row that may name files, which count by their content
NAMED = "imagenet"  # a value of `synsets` that is no file
HALVES = ("train", "val")


def state(row):
    """Return a digest of what is seen of a row of `datasets` with a `path`, or None where its folder is not here."""
    root = row["path"]
    if not os.path.isdir(root):
        return None
    halves = [os.path.join(root, half) for half in HALVES if os.path.isdir(os.path.join(root, half))]
    val = beside(row, "val")
    seen = [(key, sha256_of(beside(row, key))) for key in LISTS if beside(row, key)]
    seen += [_stamp(val)] if val and not os.path.isdir(val) else []
    folders = (halves or [root]) + ([val] if val and os.path.isdir(val) else [])
    images = []
    for folder in folders:
        images += _images(folder, FEW + 1 - len(images))
    seen += images if len(images) <= FEW else [stamp for folder in folders for stamp in _folders(folder)]
    return hashlib.sha256(repr(sorted(seen)).encode()).hexdigest()


def beside(row, key):
    """Return the path that a row names relative to its images, or None where it names none."""
    named = row.get(key)
    return os.path.join(row["path"], named) if named and named != NAMED else None


def _stamp(path, entry=None):
    try:
        found = entry.stat() if entry else os.stat(path)
    except OSError:  # a link to nothing, say: the index says what is wrong
        return (path, None, None)
    return (path, found.st_size, found.st_mtime_ns)


def _images(folder, most):
    """Return the stamps of the first `most` files in a folder and below, hidden ones left out."""
    stamps, pending = [], [folder]
    while pending and len(stamps) < most:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    pending.append(entry.path)
                elif len(stamps) < most:
                    stamps.append(_stamp(entry.path, entry))
                else:
                    break
    return stamps


def _folders(folder):
    """Return the stamps of a folder and of those in it; what lies deeper is not looked at."""
    with os.scandir(folder) as entries:
        return [_stamp(folder), *(_stamp(e.path, e) for e in entries if not e.name.startswith(".") and e.is_dir())]
