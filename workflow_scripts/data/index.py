"""The index of a dataset: which images there are, their labels and their splits. Reading it needs numpy alone.

{"classes": [name], "root": folder, "images": [{"path", "label", "bytes", "sha256"}], "splits": {name: [position]}}
with paths relative to the root, and the root relative to the index's own folder (or absolute). A builtin dataset may
add what it was made from: "fonts" of `glyphs` are [{"file", "family", "style", "version", "sha256", "half"}].
"""

import os

import numpy as np

from files import UserError, read_json

SPLITS = ("train", "calib", "select", "val")


def read(path):
    """Return the parsed index; raise UserError where the file is none."""
    index = read_json(path)
    if not isinstance(index, dict) or not {"classes", "root", "images", "splits"} <= set(index):
        raise UserError(f"{path} is not an index of images: delete it and run again")
    return index


def positions(index, split):
    """Return the split's list of positions in `images`; raise UserError for an unknown split."""
    if split not in index["splits"]:
        raise UserError(f"split {split!r} is unknown: one of {', '.join(sorted(index['splits']))}")
    return index["splits"][split]


def labels(index, split):
    """Return the split's labels as int64 [N], in the split's order."""
    images = index["images"]
    return np.array([images[position]["label"] for position in positions(index, split)], dtype=np.int64)


def files(index, path, split):
    """Return the split's image files, in the split's order; `path` is where the index was read from."""
    root = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), index["root"]))
    return [os.path.join(root, index["images"][position]["path"]) for position in positions(index, split)]
