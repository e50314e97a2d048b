"""What a Jetson draws: the power of its rails from the sensors' files, from tegrastats, or from jtop.

Sensors are INA3221 (in{n}_label, in{n}_input in mV, curr{n}_input in mA) up to Orin and INA238 (power1_input in uW) on
Thor, under /sys/class/hwmon. Standard library only.
"""

import atexit
import glob
import importlib
import os
import re
import shutil
import subprocess
import threading

from core.files import system_number, system_text

WHOLE = ("VDD_IN", "POM_5V_IN", "VIN")  # a module's whole input: Xavier NX, Orin NX and Nano; the older Nano; Thor
# AGX modules measure no whole: their rails are summed, without what is another's part or not connected.
# VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 (NVIDIA, Jetson Linux Developer Guide, AGX Orin's power monitors).
NOT_SUMMED = ("NC", "VDDQ_VDD2_1V8AO", "sum of shunt voltages")
RAIL = re.compile(r"(?<!\S)([A-Z][A-Za-z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?:/\d+(?:mW)?)?(?=\s|$)")
INTERVAL_MS = 100  # of tegrastats


def total_mw(rails):
    """Return the power of a whole module from {rail: mW}, or None without rails."""
    for name in WHOLE:
        if name in rails:
            return rails[name]
    summed = [power for name, power in rails.items() if name not in NOT_SUMMED]
    return sum(summed) if summed else None


def of_tegrastats(line):
    """Return {rail: mW} of a line of tegrastats: `RAIL now/average`, with or without `mW`, on JetPack 7 `/highest`."""
    return {name: int(power) for name, power in RAIL.findall(line)}


def of_jtop(power):
    """Return {rail: mW} of jtop's `power`: {"rail": {name: {"power": mW}}, "tot": {"name", "power"}}."""
    rails = {name: rail["power"] for name, rail in power.get("rail", {}).items() if "power" in rail}
    total = power.get("tot", {})
    return {**rails, total["name"]: total["power"]} if total.get("name") in WHOLE else rails


def source(root="/"):
    """Return the best source of a module's rails here, or None: it has `name` and `rails()` -> {rail: mW}."""
    for kind in (Sensors, Tegrastats, Jtop):
        found = kind.here(root)
        if found is not None:
            return found
    return None


class Sensors:
    """The sensors' own files: the fastest, with no process between."""

    name = "hwmon"

    def __init__(self, files):
        self._files = files

    @classmethod
    def here(cls, root):
        files = {**_ina238(root), **_ina3221(root)}
        return cls(files) if files else None

    def rails(self):
        return {name: _power_mw(*paths) for name, paths in self._files.items()}


def _ina3221(root):
    """Return {rail: (file of mV, file of mA)}; a channel without a current is none (the sum of shunt voltages)."""
    found = {}
    for label in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/in*_label")):
        volts = label.replace("_label", "_input")
        amperes = os.path.join(os.path.dirname(label), os.path.basename(volts).replace("in", "curr", 1))
        if os.path.exists(amperes):
            found[system_text(label).strip()] = (volts, amperes)
    return {name: paths for name, paths in found.items() if name != "NC"}


def _ina238(root):
    """Return {rail: (file of uW,)} of sensors that multiply themselves; one without a label is the module's input."""
    found = {}
    for power in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/power1_input")):
        folder = os.path.dirname(power)
        if system_text(f"{folder}/name").strip() == "ina238":
            label = system_text(f"{folder}/label") or system_text(f"{folder}/in1_label")
            found[label.strip() or "VIN"] = (power,)
    return found


def _power_mw(first, second=None):
    """Return milliwatts: of a file of microwatts, or of one of millivolts and one of milliamperes."""
    if second is None:
        return (system_number(first) or 0) / 1e3
    return (system_number(first) or 0) * (system_number(second) or 0) / 1e3


class Tegrastats:
    """NVIDIA's monitor, where the sensors' files cannot be read (in a container): the last line that it printed."""

    name = "tegrastats"

    def __init__(self, program):
        self._rails = {}
        command = [program, "--interval", str(INTERVAL_MS)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        atexit.register(self._process.kill)
        self._take(self._process.stdout.readline())
        threading.Thread(target=self._follow, daemon=True).start()

    @classmethod
    def here(cls, root):
        program = shutil.which("tegrastats")
        found = cls(program) if program else None
        return found if found and found.rails() else None

    def _follow(self):
        for line in self._process.stdout:
            self._take(line)

    def _take(self, line):
        self._rails = of_tegrastats(line.decode("utf-8", "replace")) or self._rails

    def rails(self):
        return self._rails


class Jtop:
    """The service of jetson_stats, where its Python package is installed and it runs."""

    name = "jtop"

    def __init__(self, monitor):
        self._monitor = monitor

    @classmethod
    def here(cls, root):
        try:
            monitor = importlib.import_module("jtop").jtop(interval=0.5)
            monitor.start()
        except Exception:  # noqa: BLE001 (not installed, or its service does not run: errors of its own)
            return None
        atexit.register(monitor.close)
        return cls(monitor)

    def rails(self):
        return of_jtop(self._monitor.power)
