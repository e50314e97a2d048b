"""Statistics of latencies, by trtexec's formulas, and whether a timing can be believed."""

import math

import numpy as np

STABLE = 0.025  # the coefficient of variation that trtexec warns above
WINDOWS, MEAN_OVER_MEDIAN, P90_OVER_MEDIAN = 5, 0.05, 0.10  # of the second form of `is_stable`


def percentile(ordered, percent):
    """Return trtexec's percentile of ascending values: the element at max(n - 1 - int((1 - p / 100) n), 0).

    In single precision, as trtexec computes it: where p / 100 of n is whole, double precision gives its neighbor.
    """
    one, count = np.float32(1), len(ordered)
    excluded = int((one - np.float32(percent) / np.float32(100)) * np.float32(count))
    return float(ordered[max(count - 1 - excluded, 0)])


def median(ordered):
    """Return the middle of ascending values, the mean of the two middle ones for an even number."""
    half = len(ordered) // 2
    return float(ordered[half]) if len(ordered) % 2 else (float(ordered[half - 1]) + float(ordered[half])) / 2


def summary(values):
    """Return {mean, median, p90, p95, p99, min, max} of values, or None for None."""
    if values is None:
        return None
    ordered = sorted(values)
    return {
        "mean": float(math.fsum(ordered)) / len(ordered),
        "median": median(ordered),
        "p90": percentile(ordered, 90),
        "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99),
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
    }


def variation(values):
    """Return the coefficient of variation: the standard deviation over the mean."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) / mean


def drift(values):
    """Return how far the median of any of WINDOWS successive parts is from the whole's, relative to it."""
    whole, parts = median(sorted(values)), min(WINDOWS, len(values))
    edges = [i * len(values) // parts for i in range(parts + 1)]
    return max(abs(median(sorted(values[a:b])) - whole) for a, b in zip(edges, edges[1:])) / whole


def is_stable(values):
    """Return whether a timing would come out again: values are latencies in the order they were measured.

    It is stable where the coefficient of variation is at most 2.5 % (trtexec's measure, right for a GPU), or else
    where all hold: the medians of 5 successive windows are within 2.5 % of the whole's (nothing drifts or interferes
    for long), the mean is at most 5 % above the median (throughput and median say the same), and so is the 90th
    percentile at most 10 % (most queries are alike). The second form is for hosts, where a few interrupted queries
    raise the deviation and move none of these.
    """
    if variation(values) <= STABLE:
        return True
    if len(values) < 4 * WINDOWS:
        return False
    ordered, mean = sorted(values), math.fsum(values) / len(values)
    middle = median(ordered)
    alike = percentile(ordered, 90) <= (1 + P90_OVER_MEDIAN) * middle and mean <= (1 + MEAN_OVER_MEDIAN) * middle
    return alike and drift(values) <= STABLE
