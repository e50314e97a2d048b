"""The power of a Jetson's rails, from the files of its sensors under /sys/class/hwmon. Standard library only.

INA3221 sensors, up to Orin, have in{n}_label, in{n}_input (mV) and curr{n}_input (mA); INA238 sensors, on Thor, have
power1_input (uW).
"""

from __future__ import annotations

import glob
import math
import os

from core.files import system_number, system_text

WHOLE = ("VDD_IN", "VIN")  # the rail of the module's whole input: Xavier NX, Orin NX and Nano; Thor
# AGX modules do not measure their input: their rails are summed, except those that another rail feeds.
# VIN_SYS_5V0 feeds VDDQ_VDD2_1V8AO (NVIDIA, Jetson Linux Developer Guide, AGX Orin's power monitors).
NOT_SUMMED = ("VDDQ_VDD2_1V8AO",)


def sensors(root: str = "/") -> dict[str, tuple[str, ...]]:
    """Return {rail: (file of uW,) or (file of mV, file of mA)}, empty on a machine without such sensors."""
    return {**_ina238(root), **_ina3221(root)}


def power_mw(files: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Return {rail: milliwatts} from the files that `sensors` lists; NaN where one of them cannot be read."""
    return {name: _product(paths) / 1e3 for name, paths in files.items()}


def total_mw(rails: dict[str, float]) -> float | None:
    """Return the power of the whole module from {rail: mW}, or None without rails."""
    for name in WHOLE:
        if name in rails:
            return rails[name]
    summed = [power for name, power in rails.items() if name not in NOT_SUMMED]
    return sum(summed) if summed else None


def _ina3221(root):
    """Return {rail: (file of mV, file of mA)}; the sum of shunt voltages has no current, and "NC" is not connected."""
    rails = {}
    for label in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/in*_label")):
        volts = label.replace("_label", "_input")
        amperes = os.path.join(os.path.dirname(label), os.path.basename(volts).replace("in", "curr", 1))
        name = system_text(label).strip()
        if os.path.exists(amperes) and name != "NC":
            rails[name] = (volts, amperes)
    return rails


def _ina238(root):
    """Return {rail: (file of uW,)}; a sensor without a label measures the module's input."""
    rails = {}
    for power in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/power1_input")):
        folder = os.path.dirname(power)
        if system_text(f"{folder}/name").strip() == "ina238":
            label = system_text(f"{folder}/label") or system_text(f"{folder}/in1_label")
            rails[label.strip() or "VIN"] = (power,)
    return rails


def _product(paths):
    """Return the product of the files' numbers, NaN where one cannot be read: a sum without it would be too low."""
    numbers = [system_number(path) for path in paths]
    return math.nan if None in numbers else math.prod(numbers)
