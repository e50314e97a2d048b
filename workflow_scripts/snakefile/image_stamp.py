"""What can be seen of a user's images without reading them, so that a change to them makes their index stale.

Of up to FEW files each one's size and time of change is looked at, so that an image edited in place is noticed too.
Of more, a dry run would take too long: then the times of the folders are, which change when an image is added,
removed, renamed or replaced by another file, but not when its bytes are overwritten. Decoding and training notice
those: they hold each image to what the index knows it by. Files of labels and of class names count by their content.
Read while Snakemake parses: standard library only, Python 3.8.
"""

import collections
import hashlib
import itertools
import os

from core.user_files import sha256_of, sha256_of_all
from data import walk

FEW = 10000
LISTS = ("labels", "synsets", "class_order")  # keys of a row that may name files, which count by their content
NAMED = ("imagenet", "sorted", "natural")  # values of these keys that are no files
HALVES = ("train", "val")
FONTS = (".ttf", ".otf")


def state(row):
    """Return a digest of what is seen of a row of `datasets` with a `path`, or None where its folder is not here."""
    root = row["path"]
    if not os.path.isdir(root):
        return None
    places = [os.path.join(root, row.get(half) or half) for half in HALVES]
    seen = [_stamp(path) for path in places if os.path.isfile(path)]
    seen += [(key, _content(beside(row, key))) for key in LISTS if beside(row, key)]
    folders = [path for path in places if os.path.isdir(path)] or [root]
    images = []
    for folder in folders:
        images += _images(folder, FEW + 1 - len(images))
    seen += images if len(images) <= FEW else [stamp for folder in folders for stamp in _folders(folder)]
    return hashlib.sha256(repr(sorted(seen, key=repr)).encode()).hexdigest()


def fonts(folder):
    """Return a digest of the fonts below a folder, by their content, or None where it is not here."""
    if not os.path.isdir(folder):
        return None
    found = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    paths = sorted(path for path in found if path.lower().endswith(FONTS))
    named = [[os.path.relpath(path, folder), digest] for path, digest in zip(paths, sha256_of_all(paths))]
    return hashlib.sha256(repr(named).encode()).hexdigest()


def beside(row, key):
    """Return the path that a row names relative to its images, or None where it names none."""
    named = row.get(key)
    return os.path.join(row["path"], named) if named and named not in NAMED else None


def _content(path):
    try:
        return sha256_of(path)
    except OSError:
        return "unreadable"


def _stamp(path, found=None):
    try:
        found = found or os.stat(path)
    except OSError:  # a link to nothing, say: the index says what is wrong
        return (path, None, None)
    return (path, found.st_size, found.st_mtime_ns)


def _images(folder, most):
    """Return the stamps of the first `most` files in a folder and below, hidden ones left out."""
    files, stamps = walk.files(folder, collections.Counter()), []
    try:
        for path, found in itertools.islice(files, most):
            stamps.append(_stamp(os.path.join(folder, path), found))
    except OSError as error:  # a folder that cannot be read: the index names it
        stamps.append((str(error.filename), None, None))
    return stamps


def _folders(folder):
    """Return the stamps of a folder and of those in it; what lies deeper is not looked at."""
    try:
        return [_stamp(folder), *(_stamp(os.path.join(folder, name)) for name in walk.folders(folder))]
    except OSError:
        return [(folder, None, None)]
