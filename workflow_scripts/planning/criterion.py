"""What a plan must meet on the `select` split: {"budget", "agreement"?, "tolerance"?}. Device side: Python 3.8, numpy.

budget: points of top-1 that may be lost against PyTorch FP32, one image where that is more; agreement: percent of
images that must keep FP32's top-1; tolerance: every logit must be within it of FP32's, absolutely or relatively
(Polygraphy's elementwise check).
"""

import numpy as np

from measure import accuracy

EPSILON = 1e-9  # percentages are quotients of counts
WORST = -100.0  # slack of logits that are not finite


def allowed(budget, count):
    """Return the points of top-1 that may be lost on `count` images: no split can tell less than one of its images."""
    return max(budget, 100.0 / count)


def verdict(logits, labels, reference, criterion):
    """Return how logits [N, C] do: top1, fp32_top1, agreement_with_fp32, outside_tolerance, slack (points) and met.

    slack is what is left, in percentage points, of the scarcest part of the criterion: below 0 it is not met.
    outside_tolerance is the percentage of logits, None where no tolerance is asked for.
    """
    if not np.isfinite(logits).all():
        logits = np.nan_to_num(logits, nan=0.0)
        finite = False
    else:
        finite = True
    scores = accuracy.score(logits, labels, reference)
    outside = _outside(logits, reference, criterion.get("tolerance")) if finite else None
    parts = [allowed(criterion["budget"], len(labels)) - (scores["fp32_top1"] - scores["top1"])]
    if criterion.get("agreement") is not None:
        parts.append(scores["agreement_with_fp32"] - criterion["agreement"])
    if outside is not None:
        parts.append(-outside)
    slack = min(parts) if finite else WORST
    kept = {name: scores[name] for name in ("num_images", "top1", "fp32_top1", "agreement_with_fp32")}
    return {**kept, "outside_tolerance": outside, "slack": round(slack, 6), "met": slack >= -EPSILON}


def _outside(logits, reference, tolerance):
    """Return the percentage of logits that are outside the tolerance both absolutely and relatively, or None."""
    if tolerance is None:
        return None
    wide = reference.astype(np.float64)
    error = np.abs(logits.astype(np.float64) - wide)
    return accuracy.percent(((error > tolerance) & (error > tolerance * np.abs(wide))).ravel())


def is_within(score, budget):
    """Return whether a score on the select split loses no more top-1 points than `allowed`."""
    return lost(score) <= allowed(budget, score["num_images"]) + EPSILON


def lost(score):
    """Return the top-1 points that a score loses against PyTorch FP32."""
    return score["fp32_top1"] - score["top1"]


def finalists(scores, budget):
    """Return the indices of the scores to choose from: those within the budget, else those that lose least."""
    within = [index for index, score in enumerate(scores) if is_within(score, budget)]
    least = min(map(lost, scores))
    return within or [index for index, score in enumerate(scores) if lost(score) <= least + EPSILON]
