"""The calibration images, normalized for the network a slice at a time."""

import os

import torch

from core.command import log
from core.files import UserError
from data import cache, preprocess


class CalibrationImages:
    """The first images of a preprocessed split: a slice of it is float32 [n, 3, H, W]."""

    def __init__(self, path: str | os.PathLike, count: int, row: dict):
        """Open the file at `path`; count: images to use; row: of `models` (mean, std).

        If the split has fewer images, all are used, with a warning. Raises UserError if there are none.
        """
        pixels = cache.read(path)
        if min(count, len(pixels)) < 1:
            raise UserError(f"calibration.images {count} with {len(pixels)} images in {path}: at least 1 is needed")
        if len(pixels) < count:
            log.warning("calibration asks for %d images, the split has %d: all are used", count, len(pixels))
        self.pixels, self.row = pixels[:count], row

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, part: slice) -> torch.Tensor:
        return torch.from_numpy(preprocess.normalize(self.pixels[part], self.row["mean"], self.row["std"]))


Images = torch.Tensor | CalibrationImages
