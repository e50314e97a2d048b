"""A Jetson's rails, clocks, power modes and throttling, from files in the formats of four modules."""

import os
import time

import pytest

from core.files import UserError
from devices import power_modes
from jetsons import AGX_ORIN, BOARDS, ORIN_NANO, THOR, XAVIER_NX, put
from measure import jetson, meters, rails

NAMES = list(BOARDS)
CLOCKS = {
    "xavier_nx": {"gpu": 1109, "cpu": 1420, "emc": 1600, "dla": 1100},
    "agx_orin": {"gpu": 1300, "cpu": 2188, "emc": 3199, "dla0": 1600, "dla1": 1600},
    "orin_nano": {"gpu": 918, "cpu": 1344},
    "thor": {"gpu": 1575, "cpu": 2601},
}


@pytest.fixture(params=NAMES)
def board(request, tmp_path):
    """(the module, its files' folder, the milliwatts that it draws, its name)"""
    module, power = BOARDS[request.param]
    return module, str(module.build(tmp_path / "root")), power, request.param


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that puts a program on PATH that prints a text."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def add(name, text):
        put(tmp_path / f"bin/{name}.txt", text)
        command = f"while IFS= read -r line; do echo \"$line\"; done < '{tmp_path}/bin/{name}.txt'"
        put(tmp_path / f"bin/{name}", f"#!/bin/sh\n{command}\n")
        os.chmod(tmp_path / f"bin/{name}", 0o755)

    return add


# Power


def test_power_of_the_whole_module(board):
    _, root, power, _ = board
    assert rails.total_mw(rails.power_mw(rails.sensors(root))) == pytest.approx(power)


def test_a_machine_without_rails(tmp_path):
    assert rails.sensors(str(tmp_path)) == {} and rails.total_mw({}) is None


def test_memory_of_an_agx_orin_is_counted_once(tmp_path):
    power = rails.power_mw(rails.sensors(str(AGX_ORIN.build(tmp_path))))
    assert power["VDDQ_VDD2_1V8AO"] == 1000 and rails.total_mw(power) == 4800 + 600 + 4500
    assert not [name for name in power if name.startswith(("NC", "sum of"))], "not connected; no current"


def test_a_jetson_without_sensors(tmp_path, programs):
    put(tmp_path / "root/proc/device-tree/compatible", "nvidia,tegra234")
    meter = jetson.Jetson.here(str(tmp_path / "root"))
    assert meter.energy_mj() is None and meter.power_mode() is None and meter.clock_mhz() is None
    delta = jetson.board_delta(meter.state(), meter.state())
    assert delta == {"rails_mw": {}, "source": None, "clocks_mhz": {}, "throttling": [], "hottest_c": None}


def test_energy_is_power_over_time(board):
    module, root, power, _ = board
    meter = jetson.Jetson.here(root)
    before, start = meter.state(), time.monotonic()
    assert meter.energy_mj() == 0
    time.sleep(1.0)
    spent, seconds = meter.energy_mj(), time.monotonic() - start
    assert spent == pytest.approx(power * seconds, rel=0.25), "read every tenth of a second"
    delta = jetson.board_delta(before, meter.state())
    assert rails.total_mw(delta["rails_mw"]) == pytest.approx(power, rel=0.25)
    assert delta["source"] == "hwmon" and delta["hottest_c"] == 49.0 and delta["throttling"] == []


# Clocks and throttling


def test_energy_with_a_rail_that_cannot_be_read_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(jetson, "PERIOD", 0.01)
    root = AGX_ORIN.build(tmp_path / "root")
    meter = jetson.Jetson.here(str(root))
    before = meter.state()
    (lost,) = [paths for name, paths in meter.sensors.items() if name == "VDD_CPU_CV"]
    os.unlink(lost[1])
    time.sleep(0.1)
    assert meter.energy_mj() is None, "the sum of the other rails would be too low"
    assert set(jetson.board_delta(before, meter.state())["rails_mw"]) == set(meter.sensors) - {"VDD_CPU_CV"}


def test_clocks(board):
    module, root, _, name = board
    assert jetson.clocks_mhz(root) == CLOCKS[name]
    assert jetson.Jetson.here(root).clock_mhz() == CLOCKS[name]["gpu"]


def test_what_slowed_a_board_down(tmp_path):
    root = ORIN_NANO.build(tmp_path / "root")
    for number, count in ((1, 0), (2, 4), (3, 27390)):
        put(root / f"sys/class/hwmon/hwmon3/oc{number}_event_cnt", f"{count}\n")
        put(root / f"sys/class/hwmon/hwmon3/oc{number}_throt_en", "1\n")
    meter = jetson.Jetson.here(str(root))
    before = meter.state()
    assert jetson.board_delta(before, meter.state())["throttling"] == [], "counters of earlier runs"
    put(root / "sys/class/hwmon/hwmon3/oc3_event_cnt", "27402\n")
    put(root / "sys/class/hwmon/hwmon1/curr1_crit_alarm", "1\n")
    put(root / "sys/class/thermal/cooling_device2/cur_state", "1\n")
    assert jetson.board_delta(before, meter.state())["throttling"] == [
        "alarm of VDD_IN: 1",
        "cooling by gpu-throttle-alert: 1",
        "oc3 events: 12",
    ]


# Power modes


def test_modes_by_name(board, programs):
    module, root, _, _ = board
    assert power_modes.modes(root) == module.modes
    assert power_modes.current(root) == module.mode, "without nvpmodel, by the file that it keeps"
    programs("nvpmodel", module.query().replace(module.mode, "ANOTHER"))
    assert power_modes.current(root) == "ANOTHER", "its own word, whatever it complains of"


def test_a_machine_without_modes(tmp_path, programs):
    assert power_modes.current(str(tmp_path)) is None and power_modes.modes(str(tmp_path)) == {}


def test_names_are_the_same_in_both_spellings():
    assert power_modes.is_same("15W", "MODE_15W") and power_modes.is_same("maxn", "MAXN")
    assert power_modes.is_same("15W 6CORE", "MODE_15W_6CORE"), "as jtop writes it"
    assert not power_modes.is_same("15W", "MODE_15W_6CORE") and not power_modes.is_same("MAXN", "MAXN_SUPER")


def test_refusals(tmp_path):
    root = str(XAVIER_NX.build(tmp_path))
    assert power_modes.refusal({}, None, root) is None
    assert power_modes.refusal({"power_mode": "15W_6CORE"}, "MODE_15W_6CORE", root) is None
    said = power_modes.refusal({"power_mode": "20W_6CORE"}, "MODE_15W_6CORE", root)
    assert said.startswith(
        "the power mode is MODE_15W_6CORE here, and the row asks for 20W_6CORE: sudo nvpmodel -m 8, "
    )
    said = power_modes.refusal({"power_mode": "MAXN"}, "MODE_15W_6CORE", root)
    assert said.startswith("power_mode MAXN is none of this board's: MODE_15W_2CORE, ")
    assert power_modes.refusal({"power_mode": "MAXN", "other_power_mode": "mark"}, "MODE_15W_6CORE", root) is None
    assert "is not known here" in power_modes.refusal({"power_mode": "15W_2CORE"}, None, root)


# The meter and the benchmark


def test_the_meter_of_a_machine(tmp_path, monkeypatch):
    assert jetson.Jetson.here(str(tmp_path)) is None, "no Jetson, whatever sensors a server has"
    put(tmp_path / "etc/nv_tegra_release", "# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64\n")
    root = str(THOR.build(tmp_path))
    monkeypatch.setattr(jetson.Jetson, "here", classmethod(lambda cls: cls(root)))
    assert isinstance(meters.gpu_meter(), jetson.Jetson) and meters.gpu_meter().state()["power_mode"] == "120W"


def test_a_benchmark_in_another_mode_is_refused_or_marked(tmp_path, monkeypatch):
    root = str(ORIN_NANO.build(tmp_path))
    with pytest.raises(UserError, match="the power mode is 25W here, and the row asks for MAXN_SUPER"):
        meters.check_power_mode({"power_mode": "MAXN_SUPER"}, power_modes.current(root))
    meters.check_power_mode({"power_mode": "MAXN_SUPER", "other_power_mode": "mark"}, "25W")
    meters.check_power_mode({"power_mode": "MODE_25W"}, "25W")
    meters.check_power_mode({}, None)
