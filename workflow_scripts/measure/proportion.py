"""Confidence intervals of accuracies: shares of a number of images. Standard library only."""

from __future__ import annotations

import math

Z = 1.959964  # of a two-sided interval of 95 %


def interval(percent: float, count: int) -> tuple[float, float]:
    """Return the ends, in percent, of Wilson's 95 % score interval of a share of `count` images.

    Unlike the normal approximation it stays within 0 and 100 and holds for shares near them (Wilson, JASA 22, 1927).
    """
    share, square = percent / 100, Z**2 / count
    middle = share + square / 2
    half = Z * math.sqrt((share * (1 - share) + square / 4) / count)
    low, high = ((middle + sign * half) / (1 + square) for sign in (-1, 1))
    return 100 * max(low, 0.0), 100 * min(high, 1.0)
