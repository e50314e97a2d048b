"""The index of a dataset: which images there are, their labels and their splits. Reading it needs numpy alone.

{"classes": [name], "root": folder, "images": [{"path", "label", "bytes", "sha256"}], "splits": {name: [position]},
"train": {"file", "images", "sha256"}, "subset": {...} or null, "class_order": {"order", "given", "natural_differs"},
"left_out": {reason: count}, "titles": [readable name of each class] where the row's `class_order` gives them}
with paths relative to the root, and the root relative to the index's own folder (or absolute). An image in a tar has
its "archive" and "offset" as well. Images that only train, of which there may be millions, are lines of a file beside
the index, FIELDS with tabs between; a stamp is the content's SHA-256, or the time of the last change where there is too
much to read. A builtin dataset may add what it was made from: "fonts" of `glyphs` are
[{"file", "family", "style", "version", "sha256", "half"}].
"""

import array
import functools
import hashlib
import os
from typing import NamedTuple

import numpy as np

from core.files import UserError, read_json
from data.source import Member

SPLITS = ("train", "calib", "select", "val")
FIELDS = ("label", "bytes", "stamp", "path")
IN_ARCHIVE = ("archive", "offset")


def read(path):
    """Return the parsed index; raise UserError where the file is none."""
    index = read_json(path)
    if not isinstance(index, dict) or not {"classes", "root", "images", "splits"} <= set(index):
        raise UserError(f"{path} is not an index of images: delete it and run again")
    return {**index, "folder": os.path.dirname(os.path.abspath(path))}


def count(index, split):
    """Return how many images a split has; raise UserError for an unknown split."""
    if split == "train":
        return index["train"]["images"]
    if split not in index["splits"]:
        raise UserError(f"split {split!r} is unknown: one of {', '.join(sorted([*index['splits'], 'train']))}")
    return len(index["splits"][split])


class Images(NamedTuple):
    """The images of a split in its order: labels and bytes are int64 [N], sources paths or Members (data/source.py).

    stamps: what each is known by, `sha256:` and the digest of its bytes, or `changed:` and its file's time.
    """

    labels: np.ndarray
    bytes: np.ndarray
    sources: list
    stamps: list


def labels(index, split):
    """Return the split's labels as int64 [N], in the split's order."""
    return images(index, split).labels


def files(index, path, split):
    """Return the split's image files (paths, or Members of archives), in its order; `path` is that of the index."""
    root = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), index["root"]))
    return [_below(root, source) for source in images(index, split).sources]


def _below(root, source):
    if isinstance(source, Member):
        return source._replace(archive=os.path.join(root, source.archive))
    return os.path.join(root, source)


def digests(index, split):
    """Return the SHA-256 of each image of a split other than train, in the split's order."""
    return [index["images"][position]["sha256"] for position in index["splits"][split]]


def decides(path, split):
    """Return what of the index at `path` decides what is made with a split's images and labels, as a JSON value.

    That is less than every byte of it: what was left out, other splits and the classes' readable names decide nothing.
    """
    index = read(path)
    if split != "train":
        return {"classes": len(index["classes"]), "labels": labels(index, split).tolist()}
    train = index["train"]
    timed = any(stamp.startswith("changed:") for stamp in images(index, "train").stamps)
    return {"classes": len(index["classes"]), "train": train["sha256"], "root": index["root"] if timed else None}


def images(index, split):
    """Return the split's Images, their sources relative to the index's root; raise UserError where it has none."""
    if not count(index, split):
        raise UserError(f"the dataset has no images for {split}: give them in `splits` and train/ (docs/datasets.md)")
    if split == "train":
        return _train(os.path.join(index["folder"], index["train"]["file"]), index["train"]["sha256"])
    found = [index["images"][position] for position in index["splits"][split]]
    numbers = (np.array([image[name] for image in found], dtype=np.int64) for name in ("label", "bytes"))
    sources = [_source(i["path"], i["bytes"], i.get("archive"), i.get("offset")) for i in found]
    return Images(*numbers, sources, [f"sha256:{image['sha256']}" for image in found])


def _source(path, size, archive=None, offset=None):
    return Member(archive, int(offset), int(size), path) if archive else path


def train_lines(found):
    """Return the bytes of the file of training images, from dicts of FIELDS (and, in an archive, of IN_ARCHIVE)."""
    rows = ([str(image[name]) for name in FIELDS + IN_ARCHIVE if name in image] for image in found)
    return "".join("\t".join(row) + "\n" for row in rows).encode("utf-8", "surrogateescape")


@functools.lru_cache(maxsize=1)
def _train(path, sha256):
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: delete the index beside it and run again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not what the index beside it was written with: delete both and run again")
    numbers, sources, stamps = array.array("q"), [], []
    for line in content.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        label, size, stamp, *place = line.split("\t")
        stamps.append(stamp)
        numbers.extend((int(label), int(size)))
        sources.append(_source(place[0], size, *place[1:]))
    table = np.array(numbers, dtype=np.int64).reshape(-1, 2)
    return Images(table[:, 0].copy(), table[:, 1].copy(), sources, stamps)
