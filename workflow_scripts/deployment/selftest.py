"""Compare the logits of a bundle's samples with those that its engine gave where the bundle was made."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from core.files import read_json
from data import preprocess
from deployment.classifier import SAMPLES

DIGITS = 6  # of logits, which are float32


def run(model: Any) -> int:
    """Print the largest difference of each sample's logits; return 0 if all are within the recorded tolerance."""
    recorded, failed = read_json(os.path.join(model.folder, SAMPLES)), 0
    folder = os.path.dirname(os.path.join(model.folder, SAMPLES))
    for sample in recorded["samples"]:
        data = preprocess.content(os.path.join(folder, sample["file"]))
        logits = model.logits(model.pixels(data, sample["file"])[None])[0]
        error = float(np.abs(logits - np.float32(sample["logits"])).max())
        within = error <= recorded["tolerance"]
        failed |= not within
        verdict = "within" if within else "NOT within"
        top = model.top(logits, 1)[0]["class"]
        print(f"{sample['file']}: {top}, logits differ by {error:.5f}: {verdict} {recorded['tolerance']:.5f}")
    print("selftest failed" if failed else "selftest passed")
    return int(failed)


def tolerance(model: Any, pixels: np.ndarray, logits: np.ndarray) -> float:
    """Return how much a logit may differ on another machine: the most that one level of all pixels changes it.

    pixels: uint8 [N, size, size, 3] of the samples; logits: theirs, [N, classes]. Pixels are one more, one less, and
    either at random; each batch size of the engine counts as well.
    """
    signs = np.random.RandomState(0).randint(0, 2, pixels.shape) * 2 - 1
    changed = [np.clip(pixels.astype(np.int16) + step, 0, 255).astype(np.uint8) for step in (1, -1, signs)]
    others = [model.logits(images) for images in changed]
    for batch in model.batches or ():
        repeated = np.resize(np.arange(len(pixels)), max(batch, len(pixels)))
        others.append(model.logits(pixels[repeated])[: len(pixels)])
    largest = max(float(np.abs(other - logits).max()) for other in others)
    return rounded(max(largest, 1e-3 * float(np.std(logits))))


def rounded(value: float) -> float:
    """Return a number with the DIGITS that are recorded of it, so that equal inputs give equal bytes."""
    return float(f"{float(value):.{DIGITS}g}")
