"""Accuracy of logits against labels and against PyTorch's FP32 logits of the same images."""

import math

import numpy as np

from files import UserError

FLOOR = 1e-6  # of |b| in a relative error |a - b| / |b|
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


def _against(logits, labels, first, reference):
    names = ("agreement_with_fp32", "max_abs_logit_error", "max_rel_logit_error", "fp32_top1", "paired_with_fp32")
    if reference is None:
        return dict.fromkeys(names)
    if reference.shape != logits.shape:
        raise UserError(f"the reference's logits are {list(reference.shape)}, the engine's {list(logits.shape)}")
    other, (absolute, relative) = correct(reference, labels, 1), _errors(logits, reference)
    return dict(
        zip(
            names,
            (
                percent(logits.argmax(axis=1) == reference.argmax(axis=1)),
                absolute,
                relative,
                percent(other),
                paired(other, first),
            ),
        )
    )


def _errors(logits, reference):
    """Return the largest absolute and relative error of logits, some rows at a time: in float64 all are too many."""
    largest = []
    for start in range(0, len(logits), ROWS):
        wide = reference[start : start + ROWS].astype(np.float64)
        error = np.abs(logits[start : start + ROWS].astype(np.float64) - wide)
        largest.append((error.max(), (error / np.maximum(np.abs(wide), FLOOR)).max()))
    return tuple(map(float, np.max(largest, axis=0)))
