"""The index of a dataset: its images, labels and splits. Reading it needs numpy alone.

{"classes": [name], "root": folder, "images": [{"path", "label", "bytes", "sha256"}], "splits": {name: [position]},
"train": {"file", "images", "sha256"}, "subset": {...} or null, "class_order": {"order", "given", "natural_differs"},
"left_out": {reason: count}, "titles": [readable name of each class] if the row's `class_order` gives them,
"repeated", "clipped": what makes accuracy doubtful, if there is any (data/doubts.py)}
Paths are relative to the root; the root is absolute or relative to the index's folder. An image in a tar archive has
"archive" and "offset" as well. Images used for training alone, perhaps millions, are lines of a file beside the index,
with the FIELDS separated by tabs; a stamp is the SHA-256 of the content, or the time of the last change if
there is too much to hash. A builtin dataset may record its sources: "fonts" of `glyphs` are
[{"file", "family", "style", "version", "sha256", "half"}].
"""

from __future__ import annotations

import array
import functools
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.files import UserError, read_json
from data.lines import Lazy, Lines
from data.source import Member, Source

SPLITS = ("train", "calib", "select", "val")
FIELDS = ("label", "bytes", "stamp", "path")
IN_ARCHIVE = ("archive", "offset")


def read(path: str | Path) -> dict:
    """Return the parsed index, with its `folder`; raise UserError if the file is not an index."""
    index = read_json(path)
    if not isinstance(index, dict) or not {"classes", "root", "images", "splits"} <= set(index):
        raise UserError(f"{path} is not an index of images: delete it and run again")
    return {**index, "folder": os.path.dirname(os.path.abspath(path))}


def count(index: dict, split: str) -> int:
    """Return the number of images of a split; raise UserError if the split is unknown."""
    if split == "train":
        return index["train"]["images"]
    if split not in index["splits"]:
        raise UserError(f"split {split!r} is unknown: one of {', '.join(sorted([*index['splits'], 'train']))}")
    return len(index["splits"][split])


class Images(NamedTuple):
    """The images of a split in its order: labels and bytes (file sizes) are int64 [N].

    stamps: `sha256:` and the digest of the bytes, or `changed:` and the time of the file's last change.
    """

    labels: np.ndarray
    bytes: np.ndarray
    sources: Sequence[Source]
    stamps: Sequence[str]


def labels(index: dict, split: str) -> np.ndarray:
    """Return the labels of a split as int64 [N], in its order."""
    return images(index, split).labels


def files(index: dict, path: str | Path, split: str) -> Sequence[Source]:
    """Return the image files of a split in its order; `path` is that of the index."""
    root = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), index["root"]))
    sources = Lazy(functools.partial(within, root), images(index, split).sources)
    return sources if split == "train" else list(sources)


def within(root: str, source: Source) -> Source:
    """Return a source that is relative to a folder from where this program runs."""
    if isinstance(source, Member):
        return source._replace(archive=os.path.join(root, source.archive))
    return os.path.join(root, source)


def digests(index: dict, split: str) -> list[str]:
    """Return the SHA-256 of each image of a split other than train, in its order."""
    return [index["images"][position]["sha256"] for position in index["splits"][split]]


def relevant(path: str, split: str) -> dict:
    """Return the JSON value of all that an artifact made from a split's images and labels depends on.

    Left-out files, other splits and readable class names are not part of it.
    """
    index = read(path)
    if split != "train":
        return {"classes": len(index["classes"]), "labels": labels(index, split).tolist()}
    train = index["train"]
    timed = any(stamp.startswith("changed:") for stamp in images(index, "train").stamps)
    return {"classes": len(index["classes"]), "train": train["sha256"], "root": index["root"] if timed else None}


def images(index: dict, split: str) -> Images:
    """Return the Images of a split, sources relative to the index's root; raise UserError if there are none."""
    if not count(index, split):
        raise UserError(f"the dataset has no images for {split}: add them by `splits` and train/ (docs/datasets.md)")
    if split == "train":
        return _train(os.path.join(index["folder"], index["train"]["file"]), index["train"]["sha256"])
    rows = [index["images"][position] for position in index["splits"][split]]
    labels, sizes = (np.array([row[name] for row in rows], dtype=np.int64) for name in ("label", "bytes"))
    sources = [source_of(row["path"], row["bytes"], row.get("archive"), row.get("offset")) for row in rows]
    return Images(labels, sizes, sources, [f"sha256:{row['sha256']}" for row in rows])


def source_of(path: str, size: Any, archive: str | None = None, offset: Any = None) -> Source:
    """Return the source of an image: its path, or the member of an archive of `size` bytes from `offset` on."""
    return Member(archive, int(offset), int(size), path) if archive else path


def train_lines(images: Iterable[dict]) -> bytes:
    """Return the file of training images, from dicts of FIELDS (and of IN_ARCHIVE, for an image in an archive)."""
    lines = bytearray()
    for image in images:
        row = "\t".join(str(image[name]) for name in FIELDS + IN_ARCHIVE if name in image)
        lines += f"{row}\n".encode("utf-8", "surrogateescape")
    return bytes(lines)


@functools.lru_cache(maxsize=1)
def _train(path, sha256):
    try:
        with open(path, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: delete the index beside it and run again") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} does not belong to the index beside it: delete both and run again")
    numbers = array.array("q")
    for line in io.BytesIO(content):
        label, size, _ = line.split(b"\t", 2)
        numbers.extend((int(label), int(size)))
    table, lines = np.array(numbers, dtype=np.int64).reshape(-1, 2), Lines(content)
    stamps = Lazy(lambda line: line.split("\t", 3)[2], lines)
    return Images(table[:, 0].copy(), table[:, 1].copy(), Lazy(_source_in, lines), stamps)


def _source_in(line):
    """Return the Source of a line of the file of training images."""
    _, size, _, *place = line.split("\t")
    return source_of(place[0], size, *place[1:])
