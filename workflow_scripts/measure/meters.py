"""Meters: the energy, clock and power mode of the device that computes; a reading that is not available is None.

A Jetson has a meter of its own (measure/jetson.py). Other GPUs are read through NVML (`pynvml`) where it is installed,
else through nvidia-smi.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
from typing import Any

from core.files import UserError, system_number, system_output, system_text
from devices import power_modes, probe
from measure import jetson
from measure.jetson import Jetson


class Meter:
    """Base meter: every reading is unavailable (None)."""

    def energy_mj(self) -> float | None:
        """Return a counter of millijoules."""
        return None

    def clock_mhz(self) -> float | None:
        """Return the current clock in MHz."""
        return None

    def power_mode(self) -> str | None:
        """Return the name of the power mode."""
        return None

    def state(self) -> dict:
        """Return {"clock_mhz", "power_mode"}."""
        return {"clock_mhz": self.clock_mhz(), "power_mode": self.power_mode()}


def meter_of(on_gpu: bool) -> Meter | Jetson:
    """Return the meter of the GPU, or of the host."""
    return gpu_meter() if on_gpu else Host()


def gpu_meter() -> Meter | Jetson:
    """Return the best GPU meter that works on this machine."""
    board = Jetson.here()
    if board is not None:
        return board
    try:
        return Nvml(importlib.import_module("pynvml"))
    except Exception:  # noqa: BLE001 (not installed, or no driver: pynvml has errors of its own)
        return Smi()


def facts(row: dict) -> dict:
    """Return what makes timings of two boards of one target differ: {"machine", "power_mode", "gpu_mhz": its range}."""
    on_gpu = (row.get("device") or probe.RUNTIMES[row["runtime"]].device) == "cuda"
    mode = meter_of(on_gpu).power_mode()
    return {"machine": probe.machine(), "power_mode": mode, "gpu_mhz": jetson.gpu_range_mhz() if on_gpu else None}


def check_power_mode(recipe: dict, current: str | None) -> None:
    """Raise UserError where the recipe asks for a power mode that the device is not in."""
    reason = power_modes.refusal(recipe, current)
    if reason:
        raise UserError(reason)


class Host(Meter):
    """The CPUs: their mean frequency and their frequency governor."""

    def clock_mhz(self) -> float | None:  # noqa: D102
        paths = glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        readings = [kilohertz / 1000 for kilohertz in map(system_number, paths) if kilohertz and kilohertz > 0]
        if not readings:
            lines = system_text("/proc/cpuinfo").splitlines()
            readings = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
        return round(sum(readings) / len(readings), 1) if readings else None

    def power_mode(self) -> str | None:  # noqa: D102
        return system_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None


def device_number() -> str:
    """Return the number or UUID of the first visible GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


class Nvml(Meter):
    """NVML: the energy counter is that of the whole board since the driver was loaded, refreshed every 20 to 100 ms."""

    def __init__(self, nvml: Any):
        self.nvml, number = nvml, device_number()
        nvml.nvmlInit()
        by_index, by_uuid = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
        self.handle = by_index(int(number)) if number.isdigit() else by_uuid(number)

    def _read(self, function, *arguments):
        try:
            return getattr(self.nvml, function)(self.handle, *arguments)
        except Exception:  # noqa: BLE001 (NVML's errors: not supported here)
            return None

    def energy_mj(self) -> float | None:  # noqa: D102
        return self._read("nvmlDeviceGetTotalEnergyConsumption")

    def clock_mhz(self) -> float | None:  # noqa: D102
        return self._read("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM)

    def power_mode(self) -> str | None:  # noqa: D102
        return _limit(self._read("nvmlDeviceGetEnforcedPowerLimit"), 1000)


class Smi(Meter):
    """nvidia-smi: it has no energy counter."""

    def _read(self, field):
        options = f"--query-gpu={field}", "--format=csv,noheader,nounits", f"--id={device_number()}"
        with contextlib.suppress(ValueError):
            return float(system_output("nvidia-smi", *options).strip())
        return None

    def clock_mhz(self) -> float | None:  # noqa: D102
        return self._read("clocks.sm")

    def power_mode(self) -> str | None:  # noqa: D102
        return _limit(self._read("enforced.power.limit"), 1)


def _limit(value, scale):
    return f"{value / scale:.0f} W limit" if value else None
