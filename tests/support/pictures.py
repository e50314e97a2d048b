"""Folders of pictures to run the workflow on."""

import numpy as np
from PIL import Image


def draw(root, classes, splits):
    """Write an ImageFolder tree of pictures, coarse noise of one color a class; splits: {name: images of a class}."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for label in range(classes):
            folder = root / split / f"n{label:08}"
            folder.mkdir(parents=True)
            color = np.random.default_rng(label).integers(0, 256, 3)
            for number in range(count):
                coarse = (rng.integers(0, 256, (12, 14, 3)) + color) // 2
                picture = Image.fromarray(coarse.astype(np.uint8)).resize((280, 240), Image.Resampling.BICUBIC)
                picture.save(folder / f"{number}.png")
