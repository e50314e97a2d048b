"""The timing loop of a host, and the state of its clocks."""

import gc
import glob
import time

import numpy as np

from core.files import system_number, system_text


class Loop:
    """How long to time: at least `iterations` queries and `duration_ms`, after `warmup_ms` of queries.

    options: what a runtime may read besides: {"cuda_graph", "spin_wait", "transfers"}, where they are given.
    meter: of the device's energy, or None.
    """

    def __init__(self, warmup_ms, duration_ms, iterations, options=None, meter=None):
        self.warmup_ms, self.duration_ms, self.iterations = warmup_ms, duration_ms, iterations
        self.options, self.meter = options or {}, meter

    def run(self, query):
        """Call `query()` as often as that takes.

        Returns (milliseconds of each timed call, float64 [n]; seconds from the first's start to the last's end).
        """
        rate = _warm_up(query, self.warmup_ms)
        times = np.zeros(max(self.iterations, int(1.5 * rate * self.duration_ms)) + 16, dtype=np.int64)
        clock, count, collecting = time.perf_counter_ns, 0, gc.isenabled()
        gc.collect()
        gc.disable()
        try:
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
        finally:
            if collecting:
                gc.enable()
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


class Host:
    """What a host says of its own state (measure/gpu.py has the like for GPUs)."""

    def energy_mj(self):
        return None

    def power_mode(self):
        return power_mode()

    def state(self):
        return {"clock_mhz": clocks_mhz(), "power_mode": power_mode()}


def clocks_mhz():
    """Return the mean frequency of the CPUs in MHz, or None where the system does not say."""
    readings = [system_number(path) for path in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    readings = [value / 1000 for value in readings if value and value > 0]
    if not readings:
        lines = system_text("/proc/cpuinfo").splitlines()
        readings = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    return round(sum(readings) / len(readings), 1) if readings else None


def power_mode():
    """Return the name of the CPUs' frequency governor, or None where there is none."""
    return system_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None
