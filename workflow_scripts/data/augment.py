"""Training images: decoded, lightly augmented; the seed alone decides them, not the number of workers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from data import index as index_file
from data import integrity, preprocess

IN_MEMORY = 64 << 20  # bytes of image files up to which decoded images stay in memory
CLEAN = "clean"  # in place of an epoch: evaluation preprocessing
KEPT = 2  # times the network's size that a crop of a JPEG has at least, where it is decoded at a fraction of its size


class Draw(NamedTuple):
    """One use of a training image: its position, the epoch (a number, or the name of another pass) and its size."""

    position: int
    epoch: int | str
    size: int


class TrainImages:
    """The training split: a map-style dataset of Draw -> (uint8 [size, size, 3], int64 label [])."""

    def __init__(self, listing: dict, index_path: str, geometry: dict, recipe: dict | None, seed: int) -> None:
        """Prepare without reading any image.

        listing: the index, read from index_path; geometry: {size, crop, crop_mode, interpolation} of the model's file;
        recipe: {crop_scale, crop_ratio, flip}, or None for the evaluation preprocessing.
        """
        self.files = index_file.files(listing, index_path, "train")
        self.labels = index_file.labels(listing, "train")
        self.reader = integrity.Reader(self.files, index_file.images(listing, "train").stamps)
        self.geometry, self.recipe, self.seed = geometry, recipe, seed
        self.in_memory = index_file.images(listing, "train").bytes.sum() <= IN_MEMORY
        self._decoded = [None] * len(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        label = self.labels[draw.position]
        if self.recipe is None or draw.epoch == CLEAN:
            return preprocess.prepare(self._image(draw.position), dict(self.geometry, size=draw.size)), label
        crop = self.crop(draw)
        return crop.of(self._image(draw.position, crop.enough)), label

    def crop(self, draw: Draw) -> Crop:
        """Return the crop of a draw, from an image that is still to be read."""
        rng = random.Random(f"{self.seed}/{draw.epoch}/{draw.position}")
        return Crop(rng, dict(self.geometry, size=draw.size), self.recipe or {})

    def decode(self) -> None:
        """Decode all images, to keep them in memory."""
        for position in range(len(self)):
            self._image(position)

    def _image(self, position, enough=None):
        image = self._decoded[position]
        if image is None:
            data, name = self.reader.read(position), self.files[position]
            image = preprocess.opened(data, name, None if self.in_memory else enough)
            self._decoded[position] = image if self.in_memory else None
        return image


class Crop:
    """A crop and a mirror at random, of an image that may be decoded at a fraction of its size."""

    def __init__(self, rng: random.Random, geometry: dict, recipe: dict) -> None:
        """Prepare without an image; recipe: of TrainImages."""
        self.rng, self.size, self.recipe = rng, geometry["size"], recipe
        self.filter = preprocess.filter_of(geometry["interpolation"])
        self._whole, self.box = (0, 0), (0.0, 0.0, 0.0, 0.0)  # left, top, right, bottom

    def enough(self, width: int, height: int) -> tuple[int, int]:
        """Choose the crop of an image of width x height; return the width and height from which it can be resized."""
        self._whole = width, height
        self.box = random_box(self.rng, width, height, self.recipe["crop_scale"], self.recipe["crop_ratio"])
        left, top, right, bottom = self.box
        spare = max(1.0, min(right - left, bottom - top) / (self.size * KEPT))
        return math.ceil(width / spare), math.ceil(height / spare)

    def of(self, image: Image.Image) -> np.ndarray:
        """Return the crop of an image (L or RGB), mirrored or not, as uint8 [size, size, 3]."""
        if not any(self._whole):
            self.enough(*image.size)
        shrunk = round(max(self._whole) / max(image.size))
        box = tuple(edge / shrunk for edge in self.box)
        pixels = preprocess.rgb(image.resize((self.size, self.size), self.filter, box=box))
        return pixels[:, ::-1].copy() if self.mirrored() else pixels

    def mirrored(self) -> bool:
        """Decide whether the crop is mirrored, after it was chosen."""
        return self.rng.random() < self.recipe["flip"]


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


def shares(
    order: Sequence[int], batch: int, epoch: int | str, size: int, rank: int = 0, processes: int = 1
) -> Iterator[list[Draw]]:
    """Yield what one of several processes has of each batch: `batch` / `processes` images that follow each other.

    order: positions, of whole batches where several processes share them.
    """
    share = batch // processes
    for start in range(rank * share, len(order), batch):
        yield [Draw(position, epoch, size) for position in order[start : start + share]]
