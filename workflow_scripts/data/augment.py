"""Training images: decoded, lightly augmented; the seed alone decides them, not the number of workers."""

import math
import random

import numpy as np
from PIL import Image

from data import index as index_file
from data import integrity, preprocess

IN_MEMORY = 64 << 20  # bytes of image files up to which decoded images stay in memory


class TrainImages:
    """The training split, one epoch at a time: a map-style dataset of (uint8 [size, size, 3], int64 label [])."""

    def __init__(self, listing: dict, index_path: str, geometry: dict, recipe: dict | None, seed: int) -> None:
        """Prepare without reading any image.

        listing: the index, read from index_path; geometry: {size, crop, crop_mode, interpolation} of the model's file;
        recipe: {crop_scale, crop_ratio, flip}, or None for the evaluation preprocessing.
        """
        self.files = index_file.files(listing, index_path, "train")
        self.labels = index_file.labels(listing, "train")
        self.reader = integrity.Reader(self.files, index_file.images(listing, "train").stamps)
        self.geometry, self.recipe, self.seed, self.epoch = geometry, recipe, seed, 0
        self.in_memory = index_file.images(listing, "train").bytes.sum() <= IN_MEMORY
        self._decoded = [None] * len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: int) -> tuple[np.ndarray, np.ndarray]:
        image = self._image(item)
        if self.recipe is None:
            return preprocess.prepare(image, self.geometry), self.labels[item]
        rng = random.Random(f"{self.seed}/{self.epoch}/{item}")
        return augmented(image, rng, self.geometry, self.recipe), self.labels[item]

    def _image(self, item):
        if self._decoded[item] is not None:
            return self._decoded[item]
        image = preprocess.opened(self.reader.read(item), self.files[item])
        if self.in_memory:
            self._decoded[item] = image
        return image


def augmented(image: Image.Image, rng: random.Random, geometry: dict, recipe: dict) -> np.ndarray:
    """Return an image (L or RGB), cropped and mirrored at random, as uint8 [size, size, 3]; recipe: of TrainImages."""
    box = random_box(rng, image.width, image.height, recipe["crop_scale"], recipe["crop_ratio"])
    resample = preprocess.filter_of(geometry["interpolation"])
    pixels = preprocess.rgb(image.resize((geometry["size"], geometry["size"]), resample, box=box))
    return pixels[:, ::-1].copy() if rng.random() < recipe["flip"] else pixels


def random_box(
    rng: random.Random, width: int, height: int, scale: list[float], ratio: list[float]
) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of a random crop, in fractional pixels, clipped to the image.

    scale: range of the crop's share of the image's area; ratio: range of its width / height.
    """
    area = width * height * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    across, down = min(math.sqrt(area * aspect), width), min(math.sqrt(area / aspect), height)
    left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
    return left, top, min(left + across, width), min(top + down, height)


def order(count: int, seed: int, epoch: int | str) -> list[int]:
    """Return the shuffled positions of `count` images; epoch: its number, or the name of another pass."""
    positions = list(range(count))
    random.Random(f"{seed}/{epoch}").shuffle(positions)
    return positions
