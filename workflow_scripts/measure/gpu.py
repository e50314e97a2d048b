"""What a GPU says of its own state: energy, clock, power limit; a Jetson's power mode and power rails.

From NVML (`pynvml`) where it is installed, else from nvidia-smi, else from a Jetson's files; None for what is not told.
"""

import glob
import importlib
import os
import shutil
import subprocess
import threading
import time

from files import system_number, system_text

RAILS = ("VDD_IN", "POM_5V_IN", "VIN")  # what a Jetson draws as a whole; without one of them, its rails are summed
PERIOD = 0.02  # seconds between two readings of a rail


def meter():
    """Return the best Meter there is here."""
    if rails():
        return Jetson()
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


class Jetson(Meter):
    """A Jetson: power rails of its INA sensors, summed up in a thread; the clock of its GPU; nvpmodel's mode."""

    def __init__(self):
        self._spent, self._thread = 0.0, None

    def energy_mj(self):
        if self._thread is None:
            self._thread = threading.Thread(target=self._integrate, daemon=True)
            self._thread.start()
        return self._spent

    def _integrate(self):
        found, last = rails(), time.monotonic()
        while True:
            time.sleep(PERIOD)
            now = time.monotonic()
            self._spent += sum(_power_mw(rail) for rail in found) * (now - last)
            last = now

    def clock_mhz(self):
        for path in glob.glob("/sys/class/devfreq/*/cur_freq"):
            if any(name in path for name in ("gv11b", "ga10b", "gpu")):
                return (system_number(path) or 0) / 1e6 or None
        return None

    def power_mode(self):
        try:
            done = subprocess.run(["nvpmodel", "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return None
        lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if "Power Mode:" in line]
        return lines[0].split(":")[-1].strip() if lines else None


def rails(root="/sys/class/hwmon"):
    """Return [(file of millivolts, file of milliamperes)] of a Jetson's input, or of all its rails."""
    found = {}
    for label in glob.glob(f"{root}/hwmon*/in*_label"):
        volts, amperes = label.replace("_label", "_input"), label.replace("_label", "_input").replace("/in", "/curr")
        if os.path.exists(amperes):
            found[system_text(label).strip()] = (volts, amperes)
    whole = [found[name] for name in RAILS if name in found]
    return whole[:1] or sorted(found.values())


def _power_mw(rail):
    volts, amperes = map(system_number, rail)
    return (volts or 0) * (amperes or 0) / 1e3


def _limit(value, scale):
    return f"{value / scale:.0f} W limit" if value else None
