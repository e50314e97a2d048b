"""The meter of a Jetson: energy, clocks, power mode and throttling. Standard library only."""

from __future__ import annotations

import glob
import math
import os
import re
import threading
import time

from core.files import system_number, system_text
from devices import power_modes
from measure import rails

PERIOD = 0.1  # seconds between two readings: each occupies the sensors' bus for milliseconds, and timing goes on beside
GPUS = ("gv11b", "ga10b", "gpu")  # in the names of their devfreq folders
BPMP = "sys/kernel/debug/bpmp/debug/clk"  # clocks that only root can read
NODES = ("nvmap", "nvhost-gpu", "nvgpu/igpu0/ctrl")  # device files that every process on the GPU opens
FANS = ("fan",)  # cooling devices that slow nothing down


class Jetson:
    """The meter of a Jetson; root: the folder that has its /sys and /etc."""

    def __init__(self, root: str = "/"):
        self.root, self.sensors = root, rails.sensors(root)
        self._energy_mj: dict[str, float] = {}
        self._thread: threading.Thread | None = None

    @classmethod
    def here(cls, root: str = "/") -> Jetson | None:
        """Return the meter where this machine is a Jetson, else None."""
        marks = system_text(f"{root}/etc/nv_tegra_release") or system_text(f"{root}/proc/device-tree/compatible")
        return cls(root) if "tegra" in marks or "release" in marks else None

    def energy_mj(self) -> float | None:
        """Return the module's energy counter in millijoules, or None where its power could not be read once."""
        total = rails.total_mw(self.rail_energy_mj())
        return None if total is None or math.isnan(total) else total

    def rail_energy_mj(self) -> dict[str, float]:
        """Return {rail: millijoules}: counters that a thread adds to from the first call on."""
        if self.sensors and self._thread is None:
            self._energy_mj = dict.fromkeys(self.sensors, 0.0)
            self._thread = threading.Thread(target=self._integrate, daemon=True)
            self._thread.start()
        return dict(self._energy_mj)

    def _integrate(self):
        last = time.monotonic()
        while True:
            time.sleep(PERIOD)
            power, now = rails.power_mw(self.sensors), time.monotonic()
            self._energy_mj = {name: mj + power[name] * (now - last) for name, mj in self._energy_mj.items()}
            last = now

    def clock_mhz(self) -> float | None:
        """Return the GPU's clock in MHz."""
        return clocks_mhz(self.root).get("gpu")

    def power_mode(self) -> str | None:
        """Return the name of nvpmodel's mode."""
        return power_modes.current(self.root)

    def state(self) -> dict:
        """Return {"clock_mhz", "power_mode"}, as any meter does, and the readings that `board_delta` compares."""
        clocks = clocks_mhz(self.root)
        board = {
            "moment": time.monotonic(),
            "source": "hwmon" if self.sensors else None,
            "energy_mj": self.rail_energy_mj(),
            "clocks_mhz": clocks,
            "throttling": throttling(self.root),
            "hottest_c": hottest_c(self.root),
        }
        return {"clock_mhz": clocks.get("gpu"), "power_mode": self.power_mode(), "board": board}


def clocks_mhz(root: str = "/") -> dict[str, float]:
    """Return {"gpu", "cpu" (the fastest core), "emc", "dla0"...: MHz} of the clocks that can be read."""
    clocks: dict[str, float] = {}
    clocks["gpu"] = _gpu_mhz(root, "cur")
    cores = map(system_number, glob.glob(f"{root}/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    clocks["cpu"] = max((kilohertz for kilohertz in cores if kilohertz), default=0) / 1e3
    clocks["emc"] = (system_number(f"{root}/{BPMP}/emc/rate") or 0) / 1e6
    for path in sorted(glob.glob(f"{root}/{BPMP}/nafll_dla*/rate")):
        name = re.sub(r"^nafll_|_core$", "", os.path.basename(os.path.dirname(path)))
        clocks[name] = (system_number(path) or 0) / 1e6
    return {name: mhz for name, mhz in clocks.items() if mhz > 0 and "falcon" not in name}


def gpu_range_mhz(root: str = "/") -> tuple[float, float]:
    """Return the lowest and the highest clock that the GPU may choose now, in MHz, each 0 where it is unknown."""
    return _gpu_mhz(root, "min"), _gpu_mhz(root, "max")


def _gpu_mhz(root, which):
    """Return a clock of the GPU in MHz (`cur`, `min` or `max` of devfreq), 0 where it cannot be read."""
    paths = sorted(glob.glob(f"{root}/sys/class/devfreq/*/{which}_freq"))
    of_gpu = [path for path in paths if any(name in os.path.basename(os.path.dirname(path)) for name in GPUS)]
    return (system_number(of_gpu[0]) or 0) / 1e6 if of_gpu else 0.0


def closed_nodes(root: str = "/") -> list[str]:
    """Return the device files of the GPU that are there and that this user may not open."""
    paths = [os.path.join(root, "dev", name) for name in NODES]
    return [path for path in paths if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK)]


def throttling(root: str = "/") -> dict[str, float]:
    """Return {cause: number}: counters of over-current events, alarms, and states of cooling devices.

    soctherm_oc counts since the start: oc1 is under-voltage, oc2 the average and oc3 the instant over-current (Orin).
    """
    causes: dict[str, float] = {}
    for path in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/oc*_event_cnt")):
        causes[f"{os.path.basename(path).split('_')[0]} events"] = system_number(path) or 0
    for path in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/curr*_*_alarm")):
        label = system_text(f"{os.path.dirname(path)}/in{re.findall(r'[0-9]+', os.path.basename(path))[0]}_label")
        causes[f"alarm of {label.strip() or os.path.basename(path)}"] = system_number(path) or 0
    for path in sorted(glob.glob(f"{root}/sys/class/thermal/cooling_device*/cur_state")):
        kind = system_text(f"{os.path.dirname(path)}/type").strip()
        if kind and not any(fan in kind for fan in FANS):
            causes[f"cooling by {kind}"] = max(causes.get(f"cooling by {kind}", 0), system_number(path) or 0)
    return causes


def board_delta(before: dict, after: dict) -> dict | None:
    """Return a result's `board` from two states of a meter, or None where the meter is not a Jetson's.

    rails_mw, of the rails that could be read, are means over the warm-up and the timed queries; clocks and the
    temperature are those at the end.
    """
    first, last = before.get("board"), after.get("board")
    if first is None or last is None:
        return None
    seconds = max(last["moment"] - first["moment"], 1e-9)
    spent = {name: mj - first["energy_mj"].get(name, 0) for name, mj in last["energy_mj"].items() if not math.isnan(mj)}
    return {
        "rails_mw": {name: round(mj / seconds, 1) for name, mj in spent.items()},
        "source": last["source"],
        "clocks_mhz": last["clocks_mhz"],
        "throttling": throttled(first["throttling"], last["throttling"]),
        "hottest_c": last["hottest_c"],
    }


def throttled(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Return what slowed the module down between two readings: counters that rose, alarms and cooling that are on."""
    rises = {name: count - (before.get(name, 0) if name.endswith("events") else 0) for name, count in after.items()}
    return [f"{name}: {rise}" for name, rise in sorted(rises.items()) if rise > 0]


def hottest_c(root: str = "/") -> float | None:
    """Return the highest temperature of the thermal zones in degrees Celsius; a zone that is off reads -256."""
    zones = map(system_number, glob.glob(f"{root}/sys/class/thermal/thermal_zone*/temp"))
    return max((milli / 1e3 for milli in zones if milli is not None and milli > 0), default=None)
