"""Several boards under one target, over real sshds: which takes a job, whatever happens to boards and hosts."""

import os
import re
import signal

import pytest
from test_remote import Host, starts

import boards
from core.files import UserError
from devices import rack

pytestmark = pytest.mark.skipif(bool(boards.missing()), reason=f"no {boards.missing()}: `make board` brings them")


@pytest.fixture(scope="module")
def trio():
    """Three boards that no test stops."""
    made = boards.Rack(3)
    yield made
    made.stop()


@pytest.fixture
def pair():
    """Two boards for one test."""
    made = boards.Rack(2)
    yield made
    made.stop()


class RackHost(Host):
    """A folder that sends a job to one of several boards."""

    @property
    def place(self):
        """Return the number of the board that did the job."""
        return int(re.search(r"^board board (\d+): sent", self.said(), re.MULTILINE).group(1))

    def moved(self):
        """Return the bytes of files that were sent and received."""
        found = re.search(r": sent ([\d,]+) bytes, received ([\d,]+)$", self.said(), re.MULTILINE)
        return tuple(int(text.replace(",", "")) for text in found.groups())


def test_jobs_go_to_free_boards_and_no_board_has_two(trio, tmp_path):
    """The tool fails where another of its kind is at work on its board."""
    hosts = [RackHost(trio, tmp_path / f"{n}", 100 + n) for n in range(5)]
    running = [each.start(lines=4, pause=0.2) for each in hosts]
    for each, process in zip(hosts, running):
        each.finish(process, 4)
    assert {each.place for each in hosts} == {1, 2, 3}
    assert sum(starts(board) for board in trio.boards) == 5
    assert any("every board that may take this job is at work: waiting" in each.said() for each in hosts)


def test_a_killed_host_leaves_its_board_to_its_job_and_finds_it_again(pair, tmp_path):
    first, other = RackHost(pair, tmp_path / "first"), RackHost(pair, tmp_path / "other", 200)
    process = first.start(lines=20, pause=0.1)
    first.wait_for("line 3\n")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    other.do()
    assert other.place == 2, "the job of the first host is still at work on its board"
    first.do(lines=20, pause=0.1)
    assert first.place == 1 and starts(pair.boards[0]) == 1
    third = RackHost(pair, tmp_path / "third", 300)
    third.do()
    assert third.place == 1, "no lock is left"


@pytest.mark.slow
def test_a_job_goes_where_its_files_are(pair, tmp_path):
    blocker, large = RackHost(pair, tmp_path / "blocker"), RackHost(pair, tmp_path / "large", 2_000_000)
    process = blocker.start(lines=15, pause=0.1)
    blocker.wait_for("line 0\n")
    large.do()
    blocker.finish(process, 15)
    large.do(lines=3)
    assert large.place == 2 and large.moved()[0] == 0


def test_a_board_that_is_down_is_named_once_and_the_other_works(pair, tmp_path):
    pair.boards[0].lose_power()
    one = RackHost(pair, tmp_path / "host")
    said = one.do()
    assert one.place == 2 and said.count("warning: board board 1 does not answer: the other boards take its work") == 1
    assert "warning" not in one.do(lines=3) and one.place == 2
    pair.boards[0].boot()
    for path in (tmp_path / "host/.cache/boards").iterdir():
        os.utime(path, (0, 0))
    one.do(lines=4)
    assert not list((tmp_path / "host/.cache/boards").iterdir()), "it is asked again, and answers"


@pytest.mark.slow
def test_a_job_moves_from_a_board_that_dies(pair, tmp_path):
    one = RackHost(pair, tmp_path / "host")
    process = one.start(lines=10, pause=0.3, LEVIT_SSH_PATIENCE="2")
    one.wait_for("line 2\n")
    pair.boards[0].lose_power()
    assert process.wait(60) == 0, one.said()
    assert one.place == 2 and "warning: board board 1 does not answer" in one.said()
    assert (one.folder / "results/out.bin").exists() and starts(pair.boards[1]) == 1


def test_where_all_boards_are_down_the_error_is_that_of_one(pair, tmp_path):
    for board in pair.boards:
        board.lose_power()
    one = RackHost(pair, tmp_path / "host")
    assert one.start(LEVIT_SSH_PATIENCE="1").wait(90) == 1
    assert "error: board board 1: no connection for 1 s" in one.said()


@pytest.mark.slow  # the next one shows it of the choice alone
def test_timings_with_one_home_stay_on_one_board(trio, tmp_path):
    hosts = [RackHost(trio, tmp_path / f"{n}", 100 + n) for n in range(4)]
    homes = ["digits.LeViT-128S", "digits.LeViT-128S", "digits.LeViT-256", "digits.LeViT-256"]
    running = [each.start(home=home) for each, home in zip(hosts, homes)]
    for each, process in zip(hosts, running):
        each.finish(process, 2)
    places = [each.place for each in hosts]
    assert places[0] == places[1] and places[2] == places[3]


def test_only_the_homes_of_a_board_that_is_left_out_move(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"name": "x", "ssh": ["a", "b", "c"]}
    several = {home: rack.Rack(row, home) for home in map(str, range(30))}
    before = {home: each._ranked()[0].destination for home, each in several.items()}
    assert set(before.values()) == {"a", "b", "c"}
    several["0"].leave_out(several["0"].boards[1])
    after = {home: each._ranked()[0].destination for home, each in several.items()}
    assert "b" not in after.values()
    assert all(after[home] == place for home, place in before.items() if place != "b")


def test_one_board_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"name": "x", "ssh": ["a", "b"]}
    monkeypatch.setenv(rack.ONLY, "2")
    assert [board.destination for board in rack.Rack(row).boards] == ["b"]
    assert [board.destination for board in rack.Rack({**row, "ssh": "c"}).boards] == ["c"], "another target's"
    rack.start("x", ["b"])
    with pytest.raises(UserError, match="x board 2 is left out of this run"):
        rack.Rack(row)
    for number in ("0", "3", "b"):
        monkeypatch.setenv(rack.ONLY, number)
        with pytest.raises(UserError, match=f"LEVIT_ONLY_BOARD={number}: the target has the boards 1 to 2"):
            rack.Rack(row)


JETSON = {"runtime": "tensorrt", "version": "8.5.2", "driver": "L4T 35.4", "isa": None}


def said(reason=None, **changes):
    return {"reason": reason, "identity": None if reason else {**JETSON, **changes}}


def test_a_board_of_another_identity_is_left_out():
    old, new = said(), said(version="8.6.0", driver="L4T 36.1")
    problem = "version is 8.6.0 there and 8.5.2 on the others; driver is L4T 36.1 there and L4T 35.4 on the others"
    assert rack.alike([old, new, old], None) == (JETSON, [None, problem, None])
    common, reasons = rack.alike([new, new, old], JETSON)
    assert common == JETSON and reasons[2] is None, "what artifacts were made by stays while a board has it"
    common, reasons = rack.alike([said("it is off"), new], JETSON)
    assert common == new["identity"] and reasons == ["it is off", None]
    assert rack.alike([old, new], None)[0] == JETSON, "the first of two"


def test_what_makes_timings_differ_is_told():
    state = {"machine": "a", "power_mode": "15W", "gpu_mhz": [114.75, 1109.25]}
    assert list(rack.remarks({"x board 1": state, "x board 2": {**state, "machine": "b"}})) == []
    lines = list(
        rack.remarks({"x board 1": state, "x board 2": {**state, "power_mode": "MAXN", "gpu_mhz": [1377, 1377]}})
    )
    assert lines[:2] == [
        "power mode: 15W on x board 1, MAXN on x board 2",
        "the GPU's clock range in MHz: 114.75,1109.25 on x board 1, 1377,1377 on x board 2",
    ]
    assert lines[2].startswith("x board 1 and x board 2 have one machine id: they are one board, or copies of one disk")
