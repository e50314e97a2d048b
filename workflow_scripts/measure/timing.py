"""The timing loop on the host's clock, and the queries that are timed."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from measure import meters
from runtimes import Session, without_gc


def images_for(session: Session, batch: int) -> np.ndarray:
    """Return a batch of noise of a session's shape and dtype: what an image shows does not change its time."""
    shape, random = [batch] + list(next(iter(session.inputs.values())))[1:], np.random.default_rng(0)
    if session.dtype == np.uint8:
        return random.integers(0, 256, shape, np.uint8)
    return random.standard_normal(shape, dtype=np.float32)


class Loop:
    """How long to time: at least `iterations` queries and `duration_ms`, after `warmup_ms` of queries.

    options: a recipe, of which a runtime reads what it has of "cuda_graph", "spin_wait" and "transfers".
    meter: the meter of the device's energy, or None.
    """

    def __init__(
        self,
        warmup_ms: float,
        duration_ms: float,
        iterations: int,
        options: dict | None = None,
        meter: meters.Meter | meters.Jetson | None = None,
    ):
        self.warmup_ms, self.duration_ms, self.iterations = warmup_ms, duration_ms, iterations
        self.options, self.meter = options or {}, meter

    def run(self, query: Callable[[], object]) -> tuple[np.ndarray, float]:
        """Call `query()` as often as asked; return (milliseconds of each call, float64 [n]; seconds of all)."""
        rate = _warm_up(query, self.warmup_ms)
        times = np.zeros(max(self.iterations, int(1.5 * rate * self.duration_ms)) + 16, dtype=np.int64)
        clock, count = time.perf_counter_ns, 0
        with without_gc():
            start = end = clock()
            deadline = start + int(self.duration_ms * 1e6)
            while count < self.iterations or end < deadline:
                if count == len(times):
                    times = np.concatenate([times, np.zeros_like(times)])
                begin = clock()
                query()
                end = clock()
                times[count] = end - begin
                count += 1
        return times[:count] / 1e6, (end - start) / 1e9


def _warm_up(query, duration_ms):
    """Call `query()` once and then until the time is over; return the queries per millisecond of the second half."""
    start = time.perf_counter_ns()
    query()
    now, calls = time.perf_counter_ns(), []
    while now - start < duration_ms * 1e6 or not calls:
        query()
        now = time.perf_counter_ns()
        calls.append(now)
    half = len(calls) // 2
    return max(len(calls) - half, 1) / max((now - (calls[half - 1] if half else start)) / 1e6, 1e-6)
