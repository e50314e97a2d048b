"""The criterion of a plan on the `select` split: {"budget", "agreement"?, "tolerance"?}. Python 3.8, numpy.

budget: points of top-1 that may be lost against PyTorch FP32, at least one image; agreement: percent of images that
must keep FP32's top-1; tolerance: how far a logit may be from FP32's, absolutely or relatively (Polygraphy's
elementwise check).
"""

from __future__ import annotations

import numpy as np

from core.files import UserError
from measure import accuracy

EPSILON = 1e-9  # percentages are quotients of counts
WORST = -100.0  # slack of logits that are not finite


def allowed(budget: float, count: int) -> float:
    """Return the points of top-1 that may be lost on `count` images: at least one image, the finest step of a split."""
    return max(budget, 100.0 / count)


def verdict(logits: np.ndarray, labels: np.ndarray, reference: np.ndarray, criterion: dict) -> dict:
    """Return the verdict on logits [N, C]: top1, fp32_top1, agreement_with_fp32, outside_tolerance, slack and met.

    labels: int64 [N]; reference: FP32's logits [N, C]. slack is the least margin of the criterion's parts, in
    percentage points: below 0 the criterion is not met. outside_tolerance is the percentage of logits outside the
    tolerance, or None without one.
    """
    finite = bool(np.isfinite(logits).all())
    scores = accuracy.score(logits if finite else np.nan_to_num(logits, nan=0.0), labels, reference)
    outside = _outside(logits, reference, criterion.get("tolerance")) if finite else None
    parts = [allowed(criterion["budget"], len(labels)) - lost(scores)]
    if criterion.get("agreement") is not None:
        parts.append(scores["agreement_with_fp32"] - criterion["agreement"])
    if outside is not None:
        parts.append(-outside)
    slack = min(parts) if finite else WORST
    reported = {name: scores[name] for name in ("num_images", "top1", "fp32_top1", "agreement_with_fp32")}
    return {**reported, "outside_tolerance": outside, "slack": round(slack, 6), "met": slack >= -EPSILON}


def _outside(logits, reference, tolerance):
    """Return the percentage of logits that are outside the tolerance both absolutely and relatively, or None."""
    if tolerance is None:
        return None
    wide = reference.astype(np.float64)
    error = np.abs(logits.astype(np.float64) - wide)
    return accuracy.percent(((error > tolerance) & (error > tolerance * np.abs(wide))).ravel())


def is_within(score: dict, budget: float) -> bool:
    """Return whether a score on the select split loses no more top-1 points than `allowed`."""
    return lost(score) <= allowed(budget, score["num_images"]) + EPSILON


def lost(score: dict) -> float:
    """Return the top-1 points that a score loses against PyTorch FP32."""
    return score["fp32_top1"] - score["top1"]


def check_engines(scores: list[dict], engines: list[tuple[str, str]]) -> None:
    """Raise UserError if a score on the select split is of another engine than its own of [(path, SHA-256)]."""
    for score, (path, digest) in zip(scores, engines):
        if score["engine_sha256"] != digest:
            raise UserError(f"the score on the select split is of another engine than {path}: run again")


def finalists(scores: list[dict], budget: float) -> list[int]:
    """Return the indices of the scores to choose from: those within the budget, else those that lose least."""
    within = [index for index, score in enumerate(scores) if is_within(score, budget)]
    least = min(map(lost, scores))
    return within or [index for index, score in enumerate(scores) if lost(score) <= least + EPSILON]
