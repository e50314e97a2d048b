"""Statistics of latencies, by trtexec's formulas, and the stability of a timing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np

STABLE = 0.025  # the coefficient of variation that trtexec warns above
FEWEST = 5  # latencies that show how much they vary
WINDOWS, MEAN_OVER_MEDIAN, P90_OVER_MEDIAN = 5, 0.05, 0.10  # of the second form of `is_stable`


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return trtexec's percentile of ascending values: the element at max(n - 1 - int((1 - p / 100) n), 0).

    In single precision, as trtexec computes it: where p / 100 of n is whole, double precision gives its neighbor.
    """
    one, count = np.float32(1), len(ordered)
    excluded = int((one - np.float32(percent) / np.float32(100)) * np.float32(count))
    return float(ordered[max(count - 1 - excluded, 0)])


def summary(values: Iterable[float] | None) -> dict[str, float] | None:
    """Return {mean, median, p90, p95, p99, min, max} of values, or None for None."""
    if values is None:
        return None
    ordered = sorted(values)
    return {
        "mean": float(math.fsum(ordered)) / len(ordered),
        "median": float(median(ordered)),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
    }


def variation(values: Sequence[float]) -> float:
    """Return the coefficient of variation: the standard deviation over the mean."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) / mean


def drift(values: Sequence[float]) -> float:
    """Return the largest relative deviation of the median of any of WINDOWS successive parts from the whole's."""
    whole, parts = median(values), min(WINDOWS, len(values))
    edges = [i * len(values) // parts for i in range(parts + 1)]
    return max(abs(median(values[a:b]) - whole) for a, b in zip(edges, edges[1:])) / whole


def is_stable(values: Sequence[float]) -> bool:
    """Return whether a timing is reproducible; values: latencies in the order of measurement.

    It is stable where the coefficient of variation is at most 2.5 % (trtexec's criterion, fit for a GPU), or else
    where all of these hold: the medians of 5 successive windows are within 2.5 % of the whole's (no drift, no long
    interference), the mean is at most 5 % above the median (throughput and median agree), and the 90th percentile is
    at most 10 % above it (most queries are alike). The second form is for hosts, where a few interrupted queries raise
    the deviation and change none of these.
    """
    if len(values) < FEWEST:
        return False
    if variation(values) <= STABLE:
        return True
    if len(values) < 4 * WINDOWS:
        return False
    ordered, mean = sorted(values), math.fsum(values) / len(values)
    middle = median(ordered)
    alike = percentile(ordered, 90) <= (1 + P90_OVER_MEDIAN) * middle and mean <= (1 + MEAN_OVER_MEDIAN) * middle
    return alike and drift(values) <= STABLE
