"""Ratios of interleaved timings, with a distribution-free confidence interval.

A round's ratio is of two medians that were measured right after one another. The ratio is the median over the rounds;
its interval lies between two order statistics of the rounds, which the true median is outside of in at most 5 % of all
cases (12 rounds: the third smallest and the third largest, 3.9 %). Standard library only.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

MISSED = 0.05
STABLE = 0.025  # half the interval of a reproducible ratio; equals stats.STABLE, which needs numpy


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return (median, low, high) of at least six values."""
    ordered, count = sorted(values), len(values)
    if count < 6:
        raise ValueError(f"{count} rounds are too few for an interval")
    rank = _rank(count)
    return statistics.median(ordered), ordered[rank], ordered[count - 1 - rank]


def _rank(count):
    """Return the largest index from either end such that the median is outside in at most MISSED of all cases."""
    outside, index = 0.0, -1
    while outside <= MISSED:
        index += 1
        outside += 2 * math.comb(count, index) / 2**count
    return index - 1


def speed_ratio(times: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Return {ratio, low, high} of an engine's speed over another's, from their milliseconds in each round."""
    return dict(zip(("ratio", "low", "high"), interval([other / own for own, other in zip(times, base)])))


def is_level(ratio: dict[str, float]) -> bool:
    """Return whether the interval of a ratio contains 1, so that neither is known to be faster."""
    return ratio["low"] <= 1 <= ratio["high"]


def is_narrow(ratio: dict[str, float]) -> bool:
    """Return whether a ratio is reproducible within 2.5 %."""
    return (ratio["high"] - ratio["low"]) / 2 <= STABLE * ratio["ratio"]


def is_stable(times: Sequence[Sequence[float]]) -> bool:
    """Return whether the ratio of every two engines is narrow; times: each one's milliseconds in each round."""
    return all(is_narrow(speed_ratio(one, other)) for one, other in itertools.combinations(times, 2))
