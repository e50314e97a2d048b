"""A job on a board over a real sshd: sent once, done once, whatever happens to link, power, disk or clock."""

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

import boards
from conftest import ROOT

pytestmark = pytest.mark.skipif(bool(boards.missing()), reason=f"no {boards.missing()}: `make board` brings them")
SLOW = 4_000_000
TOOL = """
import os, sys, time

lines, pause, size = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
with open(os.environ["TMPDIR"] + "/starts", "a") as starts:
    starts.write("x")
alone = os.open(os.environ["TMPDIR"] + "/alone", os.O_CREAT | os.O_EXCL)
for line in range(lines):
    print("line", line, flush=True)
    time.sleep(pause)
with open("results/out.bin.partial", "wb") as stream:
    stream.write(open("results/in.bin", "rb").read(16) * (size // 16))
os.rename("results/out.bin.partial", "results/out.bin")
os.unlink(os.environ["TMPDIR"] + "/alone")
"""


class Host:
    """A folder that sends one job to a board."""

    def __init__(self, board, folder, size=100):
        self.board, self.folder = board, folder
        (folder / "results").mkdir(parents=True)
        (folder / "tool.py").write_text(TOOL)
        self.data = (random.Random(7).randbytes(min(size, 1_000_000)) * (size // 1_000_000 + 1))[:size]
        (folder / "results/in.bin").write_bytes(self.data)

    def start(self, lines=2, pause=0.05, size=1600, home=None, slow=False, **variables):
        """Start the job; slow: send SLOW bytes a second (rsync counts in KiB), and notice soon that the link is cut."""
        given = ["--board", json.dumps({"name": "board", **self.board.row()}), *(["--home", home] if home else [])]
        files = ["--inputs", "tool.py", "results/in.bin", "--outputs", "results/out.bin"]
        argv = ["tool.py", str(lines), str(pause), str(size)]
        command = [sys.executable, str(ROOT / "workflow_scripts/run_on_board.py"), *given, *files, "--", *argv]
        self.log = open(self.folder / "log", "wb")  # noqa: SIM115 (the process writes to it)
        client = self.client
        environment = {**os.environ, **client.variables, **variables}
        if slow:
            limited = boards.started("rsync", self.folder / "slow", f"--bwlimit={SLOW // 1024}")
            environment.update(LEVIT_SSH_ALIVE="1", PATH=f"{limited}:{environment['PATH']}")
        enter = client.entering()
        return subprocess.Popen([*enter, *command], cwd=self.folder, env=environment, stdout=self.log, stderr=self.log)

    @property
    def client(self):
        """Return the board in whose client's network this host is."""
        return getattr(self.board, "boards", [self.board])[0]

    def said(self):
        return (self.folder / "log").read_text(errors="replace")

    def do(self, **options):
        """Run the job to its end; return what it said, which must be each line once."""
        return self.finish(self.start(**options), options.get("lines", 2))

    def finish(self, process, lines):
        assert process.wait(120) == 0, self.said()
        assert re.findall(r"^line (\d+)$", self.said(), re.MULTILINE) == [str(n) for n in range(lines)], self.said()
        made = (self.folder / "results/out.bin").read_bytes()
        assert made and made == self.data[:16] * (len(made) // 16)
        assert not list(self.folder.rglob("*.partial"))
        return self.said()

    def wait_for(self, text):
        boards.wait(lambda: text in self.said(), 60)

    def moved(self):
        """Return the bytes of files that were sent and received."""
        found = re.search(r"^board: sent ([\d,]+) bytes, received ([\d,]+)$", self.said(), re.MULTILINE)
        return tuple(int(text.replace(",", "")) for text in found.groups())


@pytest.fixture(scope="session")  # cheap: tests that wait run in all processes
def board():
    made = boards.made()
    yield made
    made.stop()


@pytest.fixture
def own_board():
    """Return a function that makes a board for one test."""
    made = []

    def make(**options):
        made.append(boards.made(**options))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def starts(board):
    return len((board.folder / "tmp/starts").read_text())


def began(board):
    """Return the bytes of the largest file that is being sent to a board."""
    return max((path.stat().st_size for path in (board.seen() / "objects").glob("*.partial")), default=0)


def test_files_travel_once(board, tmp_path):
    host = Host(board, tmp_path / "host", 3_000_000)
    host.do(size=2_000_000)
    sent = 3_000_000 + len(TOOL)
    assert host.moved() == (sent, 2_000_000)
    host.do(size=1600)
    assert host.moved() == (0, 1600)
    (host.folder / "results/in.bin").write_bytes((host.folder / "results/out.bin").read_bytes())
    host.data = host.data[:16] * 100
    host.do(size=800)  # what it reads is what the board made itself
    assert host.moved() == (0, 800)
    names = list((board.seen() / "objects").iterdir())
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in names)
    assert not list((board.seen() / "jobs").iterdir()) and not list((board.seen() / "back").iterdir())


def test_a_job_that_fails_says_why_and_is_done_again(board, tmp_path):
    host = Host(board, tmp_path / "host")
    (board.folder / "tmp/alone").touch()
    process = host.start()
    assert process.wait(60) == 1 and "FileExistsError" in host.said()
    assert host.said().strip().endswith("error: board: the command there ended with status 1")
    (board.folder / "tmp/alone").unlink()
    host.do()


def test_link_cut_during_a_transfer(own_board, tmp_path):
    board = own_board()
    size = 12_000_000
    host = Host(board, tmp_path / "host", size)
    process = host.start(slow=True)
    boards.wait(lambda: began(board) > 4_000_000, 60)
    board.cut()
    host.wait_for("the connection is lost")
    there = began(board)
    assert 4_000_000 < there < size, "the link was cut in the middle"
    board.restore()
    host.finish(process, 2)
    assert host.moved()[0] <= size - there + len(TOOL) + 1_000_000
    assert starts(board) == 1


def test_a_host_that_dies_during_a_transfer(own_board, tmp_path):
    board = own_board()
    size = 16_000_000
    host = Host(board, tmp_path / "host", size)
    process = host.start(slow=True)
    boards.wait(lambda: began(board) > 4_000_000, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    board.cut()
    there = began(board)
    assert 4_000_000 < there < size
    board.restore()
    host.do()
    assert host.moved()[0] <= size - there + len(TOOL) + 1_000_000 and starts(board) == 1


def test_link_cut_during_a_run(own_board, tmp_path):
    board = own_board()
    host = Host(board, tmp_path / "host")
    process = host.start(lines=40, pause=0.2, slow=True)
    host.wait_for("line 3\n")
    board.cut()
    host.wait_for("the connection is lost")
    board.restore()
    host.finish(process, 40)
    assert starts(board) == 1


def test_a_link_that_stays_cut(own_board, tmp_path):
    board = own_board()
    host = Host(board, tmp_path / "host")
    process = host.start(lines=40, pause=0.2, slow=True, LEVIT_SSH_PATIENCE="3")
    host.wait_for("line 3\n")
    board.cut()
    assert process.wait(60) == 1
    assert "error: board: no connection for 3 s" in host.said() and "the same command attaches to it" in host.said()
    board.restore()
    host.do(lines=40, pause=0.2)
    assert starts(board) == 1


def test_a_host_that_dies_finds_its_job_again(own_board, tmp_path):
    board = own_board()
    host = Host(board, tmp_path / "host")
    process = host.start(lines=20, pause=0.1)
    host.wait_for("line 3\n")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    host.do(lines=20, pause=0.1)
    assert starts(board) == 1
    host.do(lines=20, pause=0.1)
    assert starts(board) == 2, "a job that was fetched is done anew when it is asked for anew"


def test_power_lost_in_the_middle(own_board, tmp_path):
    board = own_board()
    host = Host(board, tmp_path / "host")
    process = host.start(lines=10, pause=0.3, slow=True)
    host.wait_for("line 3\n")
    board.lose_power()
    (board.folder / "tmp/alone").unlink()
    board.boot()
    assert process.wait(120) == 0, host.said()
    assert "the job died there without a status" in host.said()
    assert [host.said().count(f"line {n}\n") for n in (0, 9)] == [2, 1]
    assert starts(board) == 2


def test_power_lost_and_the_host_gone(own_board, tmp_path):
    board = own_board()
    host = Host(board, tmp_path / "host")
    process = host.start(lines=10, pause=0.3)
    host.wait_for("line 3\n")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    board.lose_power()
    (board.folder / "tmp/alone").unlink()
    board.boot()
    host.do(lines=10, pause=0.3)


def test_damaged_bytes_are_sent_again(board, tmp_path):
    host = Host(board, tmp_path / "host", 5_000)
    process = host.start(LEVIT_SSH_PATIENCE="0")
    host.finish(process, 2)
    for path in (board.seen() / "objects").iterdir():
        if path.stat().st_size == 5_000:
            path.unlink()
            program = "from devices import ssh; print(ssh.Board({'name': '', 'ssh': ''}).client)"
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow_scripts")}
            client = subprocess.check_output(
                [sys.executable, "-c", program], cwd=host.folder, env=environment, text=True
            )
            path.with_name(f"{path.name}.{client.strip()}.partial").write_bytes(b"x" * 5_000)
    host.do()
    assert host.moved()[0] == 5_000


@pytest.mark.parametrize("same", [False, True], ids=["different", "equal"])
def test_two_hosts_at_once_on_one_board(board, tmp_path, same):
    """The tool fails where another of its kind is at work. Equal jobs are done once or twice; both get the outputs."""
    hosts = [Host(board, tmp_path / name, size) for name, size in (("one", 100), ("two", 100 if same else 200))]
    processes = [host.start(lines=5, pause=0.2) for host in hosts]
    for host, process in zip(hosts, processes):
        host.finish(process, 5)
    if not same:
        assert any("another job is running on this board: waiting for it" in host.said() for host in hosts)


@pytest.mark.parametrize("shift", ["+3d", pytest.param("-3d", marks=pytest.mark.slow)])
def test_clocks_that_differ_by_days(own_board, tmp_path, shift):
    library = next(boards.UNPACKED.rglob("libfaketime.so.1"), None)
    if library is None:
        pytest.skip("no libfaketime: `make board` brings it")
    board = own_board(environment={"LD_PRELOAD": str(library), "FAKETIME": shift})
    host, before = Host(board, tmp_path / "host"), time.time()
    host.do()
    assert abs(board.clock() - before) > 86_400, "the board's clock is another"
    assert before - 2 <= (host.folder / "results/out.bin").stat().st_mtime <= time.time()
    for path in (board.seen() / "objects").iterdir():
        os.utime(path, (board.clock(), board.clock()))  # the kernel's clock is no other here
    host.do()
    assert host.moved()[0] == 0 and starts(board) == 2


@pytest.fixture
def small_board(own_board):
    if not boards.isolated():
        pytest.skip("a small disk of its own needs a mount namespace")
    return own_board


def test_a_disk_that_is_too_small(small_board, tmp_path):
    host = Host(small_board(size="4m"), tmp_path / "host", 20_000_000)
    assert host.start().wait(60) == 1
    assert "MB free, and 20.0 MB are to be sent: free some" in host.said()


def test_a_disk_that_is_full_after_a_part_of_a_transfer(small_board, tmp_path):
    board = small_board(size="20m")
    host = Host(board, tmp_path / "host", 12_000_000)
    process = host.start(slow=True)
    boards.wait(lambda: began(board) > 1_000_000, 60)
    filler = board.seen() / "filler"
    with contextlib.suppress(OSError):  # the two meet at the end of the disk
        filler.write_bytes(bytes(20_000_000))
    assert process.wait(60) == 1
    assert "error: no space left: rsync: " in host.said() and "No space left on device" in host.said()
    filler.unlink()
    host.do()


def test_a_disk_that_is_full_during_a_job(small_board, tmp_path):
    board = small_board(size="8m")
    host = Host(board, tmp_path / "host")
    assert host.start(size=30_000_000).wait(60) == 1
    assert re.search(r"error: board: \d+ bytes are free there: free some", host.said()), host.said()
    (board.folder / "tmp/alone").unlink()
    host.do()
