"""Accuracy of logits against labels and against PyTorch's FP32 logits of the same images."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from core.files import UserError

ROWS = 1024
CONFIDENCE, NORMAL = 0.95, 1.959963984540054


def check_finite(logits: np.ndarray, engine: str, images: Sequence) -> None:
    """Raise UserError naming the engine and the first of the images whose logits are not finite."""
    bad = np.flatnonzero(_by_rows(lambda part: ~np.isfinite(part).all(axis=1), logits))
    if len(bad):
        first = images[int(bad[0])]
        raise UserError(f"{engine}: {len(bad)} images have logits that are not finite, the first is {first}")


def correct(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return bool [N]: is the label among the k largest of logits [N, C]?

    Of equal ones, the lowest class wins; a label whose logit is NaN is not among them.
    """
    return _by_rows(functools.partial(_correct, k=k), logits, np.asarray(labels))


def _correct(logits, labels, k):
    of_label = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead = ~(logits <= of_label) | ((logits == of_label) & before)
    return (ahead.sum(axis=1) < k) & ~np.isnan(of_label[:, 0])


def _by_rows(function, *arrays):
    """Return function(*arrays), an array with a value for each row, made of ROWS at a time to limit memory."""
    starts = range(0, len(arrays[0]), ROWS) or [0]
    return np.concatenate([function(*(array[start : start + ROWS] for array in arrays)) for start in starts])


def percent(mask: np.ndarray) -> float:
    """Return the percentage of a bool [N] that is true."""
    return 100.0 * int(np.count_nonzero(mask)) / len(mask)


def pack(mask: np.ndarray) -> str:
    """Return a bool [N] as hex: bit i of the bytes, most significant first, is element i."""
    return np.packbits(mask).tobytes().hex()


def unpack(text: str, count: int) -> np.ndarray:
    """Return the bool [count] that `pack` encoded."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:count].astype(bool)


def paired(reference: np.ndarray, other: np.ndarray) -> dict:
    """Compare two bool [N] of correct answers to the same images.

    lost: correct in the reference alone; gained: correct in the other alone; net_lost: lost - gained; interval: of
    net_lost with 95 % confidence, in images of a set of this size (Wald's interval for paired proportions with
    half a case added to each of the four cells, after Agresti and Min).
    """
    lost, gained = int(np.count_nonzero(reference & ~other)), int(np.count_nonzero(other & ~reference))
    b, c, n = lost + 0.5, gained + 0.5, len(reference) + 2
    middle, error = (b - c) / n, math.sqrt(b + c - (b - c) ** 2 / n) / n
    low, high = middle - NORMAL * error, middle + NORMAL * error
    interval = [round(bound * len(reference), 3) for bound in (low, high)]
    counts = {"lost": lost, "gained": gained, "net_lost": lost - gained}
    return {**counts, "interval": interval, "confidence": CONFIDENCE}


def score(logits: np.ndarray, labels: np.ndarray, reference: np.ndarray | None = None) -> dict:
    """Return the accuracy of logits float [N, C] for labels [N]: percentages, and errors against the reference.

    reference: PyTorch's FP32 logits [N, C] of the same images; without it the figures that need it are None.
    """
    if len(logits) != len(labels) or not len(labels):
        raise UserError(f"{len(logits)} rows of logits for {len(labels)} labels")
    if int(np.max(labels)) >= logits.shape[1]:
        raise UserError(f"a label is {int(np.max(labels))}, and the network has {logits.shape[1]} classes")
    first = correct(logits, labels, 1)
    return {
        "num_images": len(labels),
        "num_classes": int(logits.shape[1]),
        "top1": percent(first),
        "top5": percent(correct(logits, labels, 5)),
        "correct": pack(first),
        **_against(logits, labels, first, reference),
    }


AGAINST = (  # figures that need the reference
    "agreement_with_fp32",
    "max_abs_logit_error",
    "logit_error_over_spread",
    "smallest_margin",
    "smallest_changed_margin",
    "largest_changed_margin",
    "fp32_top1",
    "paired_with_fp32",
)


def _against(logits, labels, first, reference):
    """Return the figures AGAINST the reference.

    logit_error_over_spread: the largest error of a logit over the standard deviation of the reference's; margins: the
    reference's largest logit of an image minus its second, over all images and over those whose predicted class
    changed. None where there is no such image.
    """
    if reference is None:
        return dict.fromkeys(AGAINST)
    if reference.shape != logits.shape:
        raise UserError(f"the reference's logits are {list(reference.shape)}, the engine's {list(logits.shape)}")
    other, error = correct(reference, labels, 1), largest_error(logits, reference)
    spread, margins = spread_of(reference), margins_of(reference)
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    changed = margins[~same] if len(margins) else margins
    extremes = ((min, margins), (min, changed), (max, changed))
    figures = [percent(same), error, error / spread if spread else None]
    figures += [float(extreme(some)) if len(some) else None for extreme, some in extremes]
    return dict(zip(AGAINST, [*figures, percent(other), paired(other, first)]))


def margins_of(logits: np.ndarray) -> np.ndarray:
    """Return each image's largest logit minus its second, float [N], of logits [N, C]; empty with C = 1."""
    if logits.shape[1] < 2:
        return np.empty(0)
    two = _by_rows(lambda part: np.partition(part, -2, axis=1)[:, -2:].astype(np.float64), logits)
    return two[:, 1] - two[:, 0]


def spread_of(logits: np.ndarray) -> float:
    """Return the standard deviation of all logits [N, C]."""
    mean = np.mean(logits, dtype=np.float64)
    squares = _by_rows(lambda part: ((part.astype(np.float64) - mean) ** 2).sum(axis=1), logits)
    return math.sqrt(squares.sum() / logits.size)


def largest_error(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest absolute difference of two arrays of logits [N, C]."""
    errors = _by_rows(lambda one, other: np.abs(one.astype(np.float64) - other).max(axis=1), logits, reference)
    return float(errors.max())
