"""scikit-learn's 1,797 scans of handwritten digits (8x8, 17 gray levels) as an ImageFolder tree of PNG files."""

import numpy as np
from PIL import Image

from data import image_folder, splits

VAL = 360  # validation images; the same scans for every seed


def write_tree(root: str, row: dict) -> dict:
    """Write root/{train,val}/{digit}/{scan}.png in place of an earlier tree; return further index entries: none."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    keys = [f"{number:04d}" for number in range(len(scans.target))]
    val = set(splits.balanced(list(range(len(keys))), scans.target.tolist(), keys, VAL, "digits val"))
    with image_folder.replacing(root, map(str, scans.target_names)) as partial:
        for number, (pixels, digit) in enumerate(zip(scans.images, scans.target)):
            image = Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8), mode=None)
            part = "val" if number in val else "train"
            image.save(partial / part / str(digit) / f"{keys[number]}.png", compress_level=0)
    return {}
