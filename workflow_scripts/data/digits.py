"""scikit-learn's 1,797 scans of handwritten digits (8x8, 17 gray levels) as an ImageFolder tree of PNG files."""

import os
import shutil
from pathlib import Path

import numpy as np

from data import splits

VAL = 360  # held out; the same scans whatever the seed


def write_tree(root):
    """Write root/{train,val}/{digit}/{scan}.png, replacing what is there; return the number of files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    scans = load_digits()
    keys = [f"{number:04d}" for number in range(len(scans.target))]
    val = set(splits.balanced(list(range(len(keys))), scans.target.tolist(), keys, VAL, "digits val"))
    partial = Path(f"{root}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in ("train", "val"):
        for digit in scans.target_names:
            (partial / part / str(digit)).mkdir(parents=True)
    for number, (pixels, digit) in enumerate(zip(scans.images, scans.target)):
        image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8), mode=None)
        part = "val" if number in val else "train"
        image.save(partial / part / str(digit) / f"{keys[number]}.png", compress_level=0)
    _replace(partial, Path(root))
    return len(keys)


def _replace(partial, root):
    old = Path(f"{root}.old")
    shutil.rmtree(old, ignore_errors=True)
    if root.exists():
        os.rename(root, old)
    os.rename(partial, root)
    shutil.rmtree(old, ignore_errors=True)
