"""Accuracy of logits against labels and against PyTorch's FP32 logits of the same images."""

import math

import numpy as np

from core.files import UserError

ROWS = 1024
CONFIDENCE, NORMAL = 0.95, 1.959963984540054


def check_finite(logits, engine, images):
    """Raise UserError naming the engine and the first image whose logits are not finite; images are their names."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise UserError(f"{engine}: {len(bad)} images have logits that are not finite, the first is {images[bad[0]]}")


def correct(logits, labels, k):
    """Return bool [N]: is the label among the k largest of logits [N, C]; of equal ones the lowest class counts first.

    With k >= C that is every image.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1])[None, :] < np.asarray(labels)[:, None]
    return ((logits > own).sum(axis=1) + ((logits == own) & before).sum(axis=1)) < k


def percent(mask):
    """Return how many of a bool [N] are true, in percent."""
    return 100.0 * int(np.count_nonzero(mask)) / len(mask)


def pack(mask):
    """Return a bool [N] as hex: bit i of the bytes, most significant first, is element i."""
    return np.packbits(mask).tobytes().hex()


def unpack(text, count):
    """Return the bool [count] that `pack` made hex of."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:count].astype(bool)


def paired(reference, other):
    """Compare two bool [N] of correct answers to the same images.

    lost: right in the reference alone; gained: right in the other alone; net_lost: lost - gained; interval: where
    net_lost lies with 95 % confidence, in images of a set of this size (Wald's interval for paired proportions with
    half a case added to each of the four cells, after Agresti and Min).
    """
    lost, gained = int(np.count_nonzero(reference & ~other)), int(np.count_nonzero(other & ~reference))
    b, c, n = lost + 0.5, gained + 0.5, len(reference) + 2
    middle, error = (b - c) / n, math.sqrt(b + c - (b - c) ** 2 / n) / n
    low, high = middle - NORMAL * error, middle + NORMAL * error
    interval = [round(bound * len(reference), 3) for bound in (low, high)]
    return {
        "lost": lost,
        "gained": gained,
        "net_lost": lost - gained,
        "interval": interval,
        "confidence": CONFIDENCE,
    }


def score(logits, labels, reference=None):
    """Return the accuracy of logits float [N, C] for labels [N]: percentages, and errors against the reference.

    reference: PyTorch FP32's logits [N, C] of the same images; without it the figures that need it are None.
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

    logit_error_over_spread: the largest distance from one of its logits over the standard deviation of them all; the
    margins: its largest logit of an image less the next one, of all images and of those whose largest logit is of
    another class here. None where there is no such thing.
    """
    if reference is None:
        return dict.fromkeys(AGAINST)
    if reference.shape != logits.shape:
        raise UserError(f"the reference's logits are {list(reference.shape)}, the engine's {list(logits.shape)}")
    other, error = correct(reference, labels, 1), largest_error(logits, reference)
    spread, margins = float(np.std(reference, dtype=np.float64)), margins_of(reference)
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    changed = margins[~same] if len(margins) else margins
    found = [percent(same), error, error / spread if spread else None]
    found += [float(of(some)) if len(some) else None for of, some in ((min, margins), (min, changed), (max, changed))]
    return dict(zip(AGAINST, [*found, percent(other), paired(other, first)]))


def margins_of(logits):
    """Return how far each image's largest logit is from the next one, float [N], of logits [N, C]; empty with C = 1."""
    if logits.shape[1] < 2:
        return np.empty(0)
    two = np.partition(logits, -2, axis=1)[:, -2:].astype(np.float64)
    return two[:, 1] - two[:, 0]


def largest_error(logits, reference):
    """Return the largest distance of two arrays of logits, some rows at a time: in float64 all are too many."""
    starts = range(0, len(logits), ROWS)
    pairs = ((logits[start : start + ROWS], reference[start : start + ROWS]) for start in starts)
    return float(max(np.abs(one.astype(np.float64) - other.astype(np.float64)).max() for one, other in pairs))
