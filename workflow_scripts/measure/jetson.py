"""What a Jetson says of its own state: energy, clocks, power mode, and what slowed it down. Standard library only."""

import glob
import os
import re
import threading
import time

from core.files import system_number, system_text
from devices import power_modes
from measure import rails

PERIOD = 0.1  # seconds between two readings: a reading takes a sensor's bus for milliseconds, and timing goes on beside
GPUS = ("gv11b", "ga10b", "gpu")  # in the names of their devfreq folders
BPMP = "sys/kernel/debug/bpmp/debug/clk"  # clocks that only root may read
FANS = ("fan",)  # cooling devices that slow nothing down


class Jetson:
    """The meter of a Jetson; root: where its /sys and /etc are."""

    def __init__(self, source, root="/"):
        self.source, self.root = source, root
        self._spent, self._thread = {}, None

    @classmethod
    def here(cls, root="/"):
        """Return the meter where this is a Jetson, else None."""
        is_one = system_text(f"{root}/etc/nv_tegra_release") or system_text(f"{root}/proc/device-tree/compatible")
        return cls(rails.source(root), root) if "tegra" in is_one or "release" in is_one else None

    def energy_mj(self):
        """Return a counter of millijoules of the whole module, or None where its power cannot be read."""
        spent = self.spent_mj()
        return rails.total_mw(spent) if spent else None

    def spent_mj(self):
        """Return the counters {rail: millijoules}, which a thread adds to from the first call on."""
        if self.source is not None and self._thread is None:
            self._spent = dict.fromkeys(self.source.rails(), 0.0)
            self._thread = threading.Thread(target=self._integrate, daemon=True)
            self._thread.start()
        return dict(self._spent)

    def _integrate(self):
        last = time.monotonic()
        while True:
            time.sleep(PERIOD)
            power, now = self.source.rails(), time.monotonic()
            self._spent = {name: spent + power.get(name, 0) * (now - last) for name, spent in self._spent.items()}
            last = now

    def clock_mhz(self):
        return self.clocks_mhz().get("gpu")

    def clocks_mhz(self):
        return clocks_mhz(self.root)

    def power_mode(self):
        return power_modes.current(self.root)

    def state(self):
        """Return {"clock_mhz", "power_mode"}, as any meter, and under "board" what `told` makes a difference of."""
        clocks = self.clocks_mhz()
        board = {
            "moment": time.monotonic(),
            "source": self.source.name if self.source else None,
            "spent_mj": self.spent_mj(),
            "clocks_mhz": clocks,
            "throttling": throttling(self.root),
            "hottest_c": hottest_c(self.root),
        }
        return {"clock_mhz": clocks.get("gpu"), "power_mode": self.power_mode(), "board": board}


def clocks_mhz(root="/"):
    """Return {"gpu", "cpu" (the fastest core), "emc", "dla0"...: MHz} of what can be read."""
    found = {}
    for path in sorted(glob.glob(f"{root}/sys/class/devfreq/*/cur_freq")):
        if any(name in os.path.basename(os.path.dirname(path)) for name in GPUS):
            found.setdefault("gpu", (system_number(path) or 0) / 1e6)
    cores = [system_number(p) for p in glob.glob(f"{root}/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")]
    found["cpu"] = max([hertz for hertz in cores if hertz], default=0) / 1e3
    found["emc"] = (system_number(f"{root}/{BPMP}/emc/rate") or 0) / 1e6
    for path in sorted(glob.glob(f"{root}/{BPMP}/nafll_dla*/rate")):
        name = re.sub(r"^nafll_|_core$", "", os.path.basename(os.path.dirname(path)))
        found[name] = (system_number(path) or 0) / 1e6
    return {name: mhz for name, mhz in found.items() if mhz > 0 and "falcon" not in name}


def throttling(root="/"):
    """Return {what: number} of what slows a module down: counters of over-current events, states of cooling devices.

    soctherm_oc counts since the start: oc1 is under-voltage, oc2 the average and oc3 the instant over-current (Orin).
    """
    found = {}
    for path in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/oc*_event_cnt")):
        found[f"{os.path.basename(path).split('_')[0]} events"] = system_number(path) or 0
    for path in sorted(glob.glob(f"{root}/sys/class/hwmon/hwmon*/curr*_*_alarm")):
        label = system_text(f"{os.path.dirname(path)}/in{re.findall(r'[0-9]+', os.path.basename(path))[0]}_label")
        found[f"alarm of {label.strip() or os.path.basename(path)}"] = system_number(path) or 0
    for path in sorted(glob.glob(f"{root}/sys/class/thermal/cooling_device*/cur_state")):
        kind = system_text(f"{os.path.dirname(path)}/type").strip()
        if kind and not any(fan in kind for fan in FANS):
            found[f"cooling by {kind}"] = max(found.get(f"cooling by {kind}", 0), system_number(path) or 0)
    return found


def told(before, after):
    """Return what a result says of a board between two states of a meter, or None where that is no Jetson's.

    rails_mw are means over the warm-up and the timed queries; clocks and the temperature are those at the end.
    """
    before, after = before.get("board"), after.get("board")
    if after is None:
        return None
    seconds = max(after["moment"] - before["moment"], 1e-9)
    spent = {name: mj - before["spent_mj"].get(name, 0) for name, mj in after["spent_mj"].items()}
    return {
        "rails_mw": {name: round(mj / seconds, 1) for name, mj in spent.items()},
        "source": after["source"],
        "clocks_mhz": after["clocks_mhz"],
        "throttling": slowed(before["throttling"], after["throttling"]),
        "hottest_c": after["hottest_c"],
    }


def slowed(before, after):
    """Return what slowed a module down between two states: counters that rose, alarms and cooling that are on."""
    rose = []
    for name, number in sorted(after.items()):
        more = number - before.get(name, 0) if name.endswith("events") else number
        if more > 0:
            rose.append(f"{name}: {more}")
    return rose


def hottest_c(root="/"):
    """Return the highest temperature of the thermal zones in degrees Celsius; those that are off say -256."""
    zones = [system_number(path) for path in glob.glob(f"{root}/sys/class/thermal/thermal_zone*/temp")]
    return max([milli / 1e3 for milli in zones if milli is not None and milli > 0], default=None)
