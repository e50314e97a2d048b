"""Ratios of timings that were taken in turns, with an interval that assumes nothing of their distribution.

A round's ratio is of two medians that were measured right after one another. The ratio is the median over the rounds;
its interval lies between two order statistics of theirs, which the median of independent rounds misses in at most 5 %
of all cases (12 rounds: the third smallest and the third largest, 3.9 %). Standard library only.
"""

import itertools
import math

MISSED = 0.05
STABLE = 0.025  # half the width of a ratio that would come out again; the same as stats.STABLE, which needs numpy


def interval(values):
    """Return (median, low, high) of at least six values."""
    ordered, count = sorted(values), len(values)
    if count < 6:
        raise ValueError(f"{count} rounds are too few for an interval")
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    rank = _rank(count)
    return middle, ordered[rank], ordered[count - 1 - rank]


def _rank(count):
    """Return the largest index from either end between which the median lies in all but MISSED of all cases."""
    outside = 0.0
    for index in itertools.count():
        outside += 2 * math.comb(count, index) / 2**count
        if outside > MISSED:
            return index - 1


def speed_ratio(times, base):
    """Return {ratio, low, high} of a contender's speed over another's, of their milliseconds in each round."""
    found = interval([other / own for own, other in zip(times, base)])
    return dict(zip(("ratio", "low", "high"), found))


def is_level(ratio):
    """Return whether the interval of a ratio contains 1: which of the two is faster is not known."""
    return ratio["low"] <= 1 <= ratio["high"]


def is_narrow(ratio):
    """Return whether a ratio would come out again within 2.5 %."""
    return (ratio["high"] - ratio["low"]) / 2 <= STABLE * ratio["ratio"]


def is_stable(times):
    """Return whether the ratio of every two contenders is narrow; times: each one's milliseconds in each round."""
    return all(is_narrow(speed_ratio(one, other)) for one, other in itertools.combinations(times, 2))
