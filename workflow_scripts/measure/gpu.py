"""What a GPU says of its own state: energy, clock, power limit.

A Jetson tells of itself (jetson.py); others through NVML (`pynvml`) where it is installed, else nvidia-smi; None for
what is not told.
"""

import importlib
import os
import shutil
import subprocess

from measure.jetson import Jetson


def meter():
    """Return the best meter there is here."""
    board = Jetson.here()
    if board is not None:
        return board
    try:
        return Nvml(importlib.import_module("pynvml"))
    except Exception:  # noqa: BLE001 (not installed, or no driver: pynvml has errors of its own)
        return Smi()


class Meter:
    """What may be asked of a GPU; here nothing is known."""

    def energy_mj(self):
        """Return a counter of millijoules, or None."""
        return None

    def clock_mhz(self):
        return None

    def power_mode(self):
        return None

    def state(self):
        return {"clock_mhz": self.clock_mhz(), "power_mode": self.power_mode()}


def device_number():
    """Return the number or UUID of the first visible GPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"


class Nvml(Meter):
    """NVML: the energy counter is that of the whole board since the driver was loaded, refreshed every 20 to 100 ms."""

    def __init__(self, nvml):
        self.nvml, number = nvml, device_number()
        nvml.nvmlInit()
        by_number = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
        self.handle = by_number[0](int(number)) if number.isdigit() else by_number[1](number)

    def _ask(self, function, *arguments):
        try:
            return getattr(self.nvml, function)(self.handle, *arguments)
        except Exception:  # noqa: BLE001 (NVML's errors: not supported here)
            return None

    def energy_mj(self):
        return self._ask("nvmlDeviceGetTotalEnergyConsumption")

    def clock_mhz(self):
        return self._ask("nvmlDeviceGetClockInfo", self.nvml.NVML_CLOCK_SM)

    def power_mode(self):
        return _limit(self._ask("nvmlDeviceGetEnforcedPowerLimit"), 1000)


class Smi(Meter):
    """nvidia-smi: no counter of energy."""

    def _ask(self, field):
        program = shutil.which("nvidia-smi")
        if program is None:
            return None
        command = [program, f"--query-gpu={field}", "--format=csv,noheader,nounits", f"--id={device_number()}"]
        try:
            text = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20).stdout
            return float(text.decode("utf-8", "replace").strip())
        except (OSError, ValueError, subprocess.SubprocessError):
            return None

    def clock_mhz(self):
        return self._ask("clocks.sm")

    def power_mode(self):
        return _limit(self._ask("enforced.power.limit"), 1)


def _limit(value, scale):
    return f"{value / scale:.0f} W limit" if value else None
