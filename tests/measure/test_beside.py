"""What ran beside a timing, from /proc."""

import os
import subprocess
import sys
import time

import pytest

from measure import beside


def proc(folder, user, idle, steal, load="0.50", own=0):
    """Write what /proc tells of two processors: ticks of all, and of process 7."""
    (folder / "7").mkdir(exist_ok=True)
    (folder / "loadavg").write_text(f"{load} 0.40 0.30 2/200 4711\n")
    (folder / "stat").write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 999 0\ncpu0 1 2 3\n")
    (folder / "7" / "stat").write_text(f"7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 {own} 0 0 0 20 0 1 0\n")


def test_shares_of_the_processors_time(tmp_path):
    proc(tmp_path, user=1000, idle=5000, steal=100, own=50)
    window = beside.Window([7], tmp_path)
    proc(tmp_path, user=1150, idle=5030, steal=120, load="1.75", own=150)
    found = window.end()
    assert found == {"load_before": 0.5, "load_after": 1.75, "steal_percent": 10.0, "others_percent": 25.0}
    assert not beside.is_quiet(found) and beside.taken_percent(found) == 35.0
    assert beside.note(found) == "; other processes took 25 % of the processors, and steal 10 %"


def test_a_quiet_machine_has_no_note(tmp_path):
    proc(tmp_path, user=0, idle=0, steal=0)
    window = beside.Window([7], tmp_path)
    proc(tmp_path, user=104, idle=96, steal=1, own=100)
    assert window.end()["others_percent"] == 2.0 and beside.note(window.end()) == ""


def test_what_a_system_does_not_tell_is_null(tmp_path):
    found = beside.Window([7], tmp_path).end()
    assert set(found.values()) == {None} and beside.is_quiet(found) and beside.note(found) == ""
    assert beside.is_quiet(None) and beside.taken_percent(None) is None


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="no /proc")
def test_a_busy_neighbour_is_seen_and_own_work_is_not():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        both, one = beside.Window([os.getpid(), neighbour.pid]), beside.Window([os.getpid()])
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        seen = one.end()["others_percent"], both.end()["others_percent"]
        neighbour.kill()
    assert seen[0] > seen[1]
