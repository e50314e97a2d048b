"""Jetsons as their files and programs show them, written after the published formats; built below a folder.

Sources of the formats: NVIDIA's Jetson Linux Developer Guide (nvpmodel.conf, power monitors, soctherm_oc),
the kernel's documentation of ina3221 and ina238, and lines that users of the three modules posted.
"""

from pathlib import Path

CONF = """# NVPMODEL CONF - %s

< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online

< PARAM TYPE=CLOCK NAME=GPU >
FREQ_TABLE /sys/devices/17000000.gpu/devfreq/17000000.gpu/available_frequencies
MAX_FREQ /sys/devices/17000000.gpu/devfreq/17000000.gpu/max_freq

"""
MODE = "< POWER_MODEL ID=%d NAME=%s >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ -1\n\n"
QUERY_AS_USER = """NV Fan Mode:quiet
NV Power Mode: %s
%d
NVPM ERROR: Error opening /sys/kernel/nvpmodel_emc_cap/emc_iso_cap: 13
NVPM ERROR: failed to read PARAM EMC: ARG MAX_FREQ: PATH /sys/kernel/nvpmodel_emc_cap/emc_iso_cap
"""


class Board:
    """One module: modes {name: number}, the current one, rails {label: (mV, mA)} by sensor."""

    def __init__(self, chip, modes, mode, sensors, gpu, clocks):
        self.chip, self.modes, self.mode, self.sensors = chip, modes, mode, sensors
        self.gpu, self.clocks = gpu, clocks

    def build(self, root):
        """Write the module's files below a folder; return it."""
        root = Path(root)
        conf = CONF % self.chip + "".join(MODE % (number, name) for name, number in self.modes.items())
        put(root / "etc/nvpmodel.conf", f"{conf}< PM_CONFIG DEFAULT={self.modes[self.mode]} >\n")
        put(root / "var/lib/nvpmodel/status", f"pmode:{self.modes[self.mode]:04d} fmode:quiet\n")
        put(root / "proc/device-tree/compatible", f"nvidia,p0000-0000+p0000-0000\0nvidia,{self.chip}\0")
        for number, rails in enumerate(self.sensors, 1):
            self._sensor(root / f"sys/class/hwmon/hwmon{number}", rails)
        put(root / f"sys/class/devfreq/{self.gpu}/cur_freq", f"{self.clocks['gpu'] * 1_000_000}\n")
        put(root / "sys/class/devfreq/15340000.vic/cur_freq", "115200000\n")
        for core in (0, 1):
            put(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{self.clocks['cpu'] * 1000}\n")
        for name, mhz in self.clocks.items():
            if name not in ("gpu", "cpu"):
                put(root / f"sys/kernel/debug/bpmp/debug/clk/{name}/rate", f"{mhz * 1_000_000}\n")
        for number, (kind, state) in enumerate([("pwm-fan", 3), ("cpu-throttle-alert", 0), ("gpu-throttle-alert", 0)]):
            put(root / f"sys/class/thermal/cooling_device{number}/type", f"{kind}\n")
            put(root / f"sys/class/thermal/cooling_device{number}/cur_state", f"{state}\n")
        for number, (zone, milli) in enumerate(
            [("cpu-thermal", 47500), ("tj-thermal", 49000), ("cv0-thermal", -256000)]
        ):
            put(root / f"sys/class/thermal/thermal_zone{number}/type", f"{zone}\n")
            put(root / f"sys/class/thermal/thermal_zone{number}/temp", f"{milli}\n")
        return root

    def _sensor(self, folder, rails):
        if "VIN" in rails:  # an INA238 multiplies by itself
            put(folder / "name", "ina238\n")
            put(folder / "power1_input", f"{rails['VIN'][0] * rails['VIN'][1]}\n")
            return
        put(folder / "name", "ina3221\n")
        for channel, (label, (volts, amperes)) in enumerate(rails.items(), 1):
            put(folder / f"in{channel}_label", f"{label}\n")
            put(folder / f"in{channel}_input", f"{volts}\n")
            put(folder / f"curr{channel}_input", f"{amperes}\n")
            put(folder / f"curr{channel}_crit_alarm", "0\n")
        put(folder / "in7_label", "sum of shunt voltages\n")
        put(folder / "in7_input", "1424\n")

    def query(self):
        """Return what `nvpmodel -q` prints to a user who is not root."""
        return QUERY_AS_USER % (self.mode, self.modes[self.mode])


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


XAVIER_NX = Board(
    chip="tegra194",
    modes={
        **{"MODE_15W_2CORE": 0, "MODE_15W_4CORE": 1, "MODE_15W_6CORE": 2, "MODE_10W_2CORE": 3, "MODE_10W_4CORE": 4},
        **{"MODE_10W_DESKTOP": 5, "MODE_20W_2CORE": 6, "MODE_20W_4CORE": 7, "MODE_20W_6CORE": 8},
    },
    mode="MODE_15W_6CORE",
    sensors=[{"VDD_IN": (5080, 1000), "VDD_CPU_GPU_CV": (5072, 128), "VDD_SOC": (5072, 216)}],
    gpu="17000000.gv11b",
    clocks={"gpu": 1109, "cpu": 1420, "emc": 1600, "nafll_dla": 1100, "nafll_dla_falcon": 630},
)
AGX_ORIN = Board(
    chip="tegra234",
    modes={"MAXN": 0, "MODE_15W": 1, "MODE_30W": 2, "MODE_50W": 3},
    mode="MAXN",
    sensors=[
        {"VDD_GPU_SOC": (12000, 400), "VDD_CPU_CV": (12000, 50), "VIN_SYS_5V0": (5000, 900)},
        {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 200), "NC ": (0, 0)},
    ],
    gpu="17000000.ga10b",
    clocks={"gpu": 1300, "cpu": 2188, "emc": 3199, "nafll_dla0_core": 1600, "nafll_dla1_core": 1600},
)
ORIN_NANO = Board(
    chip="tegra234",
    modes={"15W": 0, "25W": 1, "MAXN_SUPER": 2},
    mode="25W",
    sensors=[{"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 300), "VDD_SOC": (5000, 250)}],
    gpu="17000000.gpu",
    clocks={"gpu": 918, "cpu": 1344},
)
THOR = Board(
    chip="tegra264",
    modes={"MAXN": 0, "120W": 1},
    mode="120W",
    sensors=[{"VIN": (20000, 1500)}, {"VDD_GPU": (12000, 500), "VDD_CPU_SOC_MSS": (12000, 400)}],
    gpu="gpu-gpc-0",
    clocks={"gpu": 1575, "cpu": 2601},
)
# what each module draws as a whole in the samples above, in milliwatts
BOARDS = {"xavier_nx": (XAVIER_NX, 5080), "agx_orin": (AGX_ORIN, 9900), "orin_nano": (ORIN_NANO, 6000)}
BOARDS["thor"] = (THOR, 30000)
