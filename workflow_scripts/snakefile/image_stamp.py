"""Cheap fingerprint of a dataset's images or fonts; a change of it reruns `index_dataset`.

For up to FEW images it covers the size and mtime of each, which reveals an image edited in place. For more, that would
slow every dry run down: it covers the mtimes of all folders instead, which change when an image is added, removed,
renamed or replaced, but not when its bytes are overwritten. Decoding and training catch that case, because they check
each image against the index. A row's `manifest`, a file that changes whenever the images do, replaces the images.
Manifests, label files, class files and fonts count by content.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import os
from collections.abc import Callable

from core.user_files import sha256_of, sha256_of_all
from data import walk
from snakefile import folders

FEW = 10000
LISTS = ("labels", "synsets", "class_order", "manifest")  # keys of a row that may name files: these count by content
NAMED = ("imagenet", "sorted", "natural")  # values of these keys that are not files
HALVES = ("train", "val")
FONTS = (".ttf", ".otf")


def fingerprint(row: dict) -> str | None:
    """Return the fingerprint of a dataset's images or fonts, None where they are not here, "" where it has neither."""
    source = row.get("path") or _fonts_of(row)
    if not source or not os.path.isdir(source):
        return None if source else ""
    return _images_fingerprint(row, source) if "path" in row else _fonts_fingerprint(source)


def user_files(row: dict, is_indexed: bool) -> dict[str, tuple[str | None, Callable]]:
    """Return {key of a row: (path, test that it must pass)}; images and fonts may move away once they are indexed."""
    files: dict = {"path": (row.get("path"), os.path.isdir), "drawing.fonts": (_fonts_of(row), os.path.isdir)}
    files = {} if is_indexed else files
    if os.path.isdir(row.get("path", "")):
        files.update({key: (beside(row, key), os.path.isfile) for key in LISTS})
        files.update({half: (beside(row, half), os.path.exists) for half in HALVES})
    return files


def _fonts_of(row):
    return row.get("drawing", {}).get("fonts")


def _images_fingerprint(row, root):
    places = [os.path.join(root, row.get(half) or half) for half in HALVES]
    stamps = [_stamp(path) for path in places if os.path.isfile(path)]
    stamps += [(key, _content(beside(row, key))) for key in LISTS if beside(row, key)]
    stamps += [] if row.get("manifest") else _of_folders(places, root)
    return _digest(sorted(stamps, key=repr))


def _digest(stamps):
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _of_folders(places, root):
    halves = [path for path in places if os.path.isdir(path)] or [root]
    images = []
    for half in halves:
        images += _images(half, FEW + 1 - len(images))
    return images if len(images) <= FEW else [stamp for half in halves for stamp in _folders(half)]


def _fonts_fingerprint(folder):
    files = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
    paths = sorted(path for path in files if path.lower().endswith(FONTS))
    named = [[os.path.relpath(path, folder), digest] for path, digest in zip(paths, sha256_of_all(paths))]
    return _digest(named)


def beside(row: dict, key: str) -> str | None:
    """Return the path that a row names relative to its images, or None where it names none."""
    named = row.get(key)
    return os.path.join(row["path"], named) if named and named not in NAMED else None


def _content(path):
    try:
        return sha256_of(path)
    except OSError:
        return "unreadable"


def _stamp(path, stat=None):
    try:
        stat = stat or os.stat(path)
    except OSError:  # a link to nothing, say: the index says what is wrong
        return (path, None, None)
    return (path, stat.st_size, stat.st_mtime_ns)


def _images(folder, most):
    """Return the stamps of the first `most` files in a folder and below, hidden ones left out."""
    files, stamps = walk.files(folder, collections.Counter()), []
    try:
        for path, stat in itertools.islice(files, most):
            stamps.append(_stamp(os.path.join(folder, path), stat))
    except OSError as error:  # a folder that cannot be read: the index names it
        stamps.append((str(error.filename), None, None))
    return stamps


def _folders(folder):
    try:
        statuses = folders.below(folder)
    except OSError as error:
        return [(str(error.filename), None, None)]
    return [(path, None, None) if status is None else _stamp(path, status) for path, status in statuses.items()]
