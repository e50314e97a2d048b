"""The calibration images as the network takes them, a slice at a time."""

import torch

from core.command import log
from core.files import UserError
from data import cache, preprocess


class CalibrationImages:
    """The first images of a preprocessed split: a slice of it is float32 [n, 3, H, W]."""

    def __init__(self, path, wanted, row):
        """Open the file at `path`; wanted: images to use; row: of `models` (mean, std).

        Fewer images than wanted are used as they are, and said; raises UserError where there is none.
        """
        pixels = cache.read(path)
        if min(wanted, len(pixels)) < 1:
            raise UserError(f"calibration.images {wanted} with {len(pixels)} images in {path}: at least 1 is needed")
        if len(pixels) < wanted:
            log.warning("calibration asks for %d images, the split has %d: all are used", wanted, len(pixels))
        self.pixels, self.row = pixels[:wanted], row

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, part):
        return torch.from_numpy(preprocess.normalize(self.pixels[part], self.row["mean"], self.row["std"]))
