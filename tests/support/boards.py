"""A board for tests: a real sshd and rsync, in namespaces of its own (network, mounts, processes) where permitted.

Without the permission sshd runs on loopback as this user: its link is then cut by ending sshd and its connections, and
power is lost by killing those and the jobs that they started. Client and board share no route to anything else.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fork_server
from workflow import REPOSITORY

UNPACKED = REPOSITORY / ".cache/ssh"  # by `make board`
LIBRARIES = sorted({str(path.parent) for path in UNPACKED.glob("**/lib/**/*.so*")})
PLACES = [
    *(str(UNPACKED / place) for place in ("usr/bin", "usr/sbin", "bin", "sbin")),
    os.environ["PATH"],
    "/usr/sbin:/sbin",
]
TOOLS = {**os.environ, "PATH": ":".join(PLACES), "LD_LIBRARY_PATH": ":".join(LIBRARIES)}
NETWORK = "10.231.{}."  # of the link, which nothing else has a route to
SERVER = """Port {port}
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
LogLevel ERROR
SetEnv {environment}
"""
USER = """Host {name}
  HostName {address}
  Port {port}
  User {user}
  IdentityFile {folder}/client_key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
"""


def program(name):
    return shutil.which(name, path=TOOLS["PATH"])


def started(name, folder, *words):
    """Return a new folder with a script that starts a program, installed or unpacked, with what it needs and words."""
    folder.mkdir(parents=True, exist_ok=True)
    libraries = f'LD_LIBRARY_PATH="{TOOLS["LD_LIBRARY_PATH"]}"'
    (folder / name).write_text(f'#!/bin/sh\n{libraries} exec {" ".join([program(name), *words])} "$@"\n')
    (folder / name).chmod(0o755)
    return folder


def missing():
    """Return what this machine lacks for a board, or nothing."""
    lacking = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync") if not program(name)]
    return lacking or ([] if os.geteuid() or isolated() else ["namespaces, which sshd needs when root tests it"])


@functools.cache
def isolated():
    """Return whether a board can have namespaces of its own here; LEVIT_TEST_PLAIN says that it shall not."""
    if os.environ.get("LEVIT_TEST_PLAIN") or os.geteuid() or not all(map(program, ("unshare", "nsenter", "ip"))):
        return False
    test = ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/run"]
    return subprocess.run(test, stderr=subprocess.DEVNULL).returncode == 0


def run(*words):
    subprocess.run([program(words[0]) or words[0], *words[1:]], check=True, env=TOOLS, stdout=subprocess.DEVNULL)


class Board:
    """A board whose files are below `folder`; `config` is the ssh configuration by which it is reached as `board`."""

    def __init__(self, folder, environment=None, size=None, beside=None):
        """environment: of what runs there; size: of the disk under the work folder, as tmpfs writes it; beside: another
        board in whose client's network this one is as well, reached as `board2` and so on."""
        self.folder, self.size, self.processes = Path(folder), size, []
        self.client, self.owner = (beside.client, False) if beside else (None, True)
        self.beside = beside.beside if beside else itertools.count(1)
        self.number = next(self.beside)
        network = NETWORK.format(self.number)
        self.here, self.address = (f"{network}1", f"{network}2") if isolated() else ("127.0.0.1",) * 2
        self.name = "board" if self.owner else f"board{self.number}"
        self.work, self.config = self.folder / "work", self.folder / "ssh_config"
        self.work.mkdir(parents=True)
        (self.folder / "tmp").mkdir()
        self.environment = {
            "PATH": self._tools(),
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "LEVIT_TEST_BOARD": str(self.folder),
            **(environment or {}),
        }
        self.port = 2222 if isolated() else _free_port()
        for key in ("host_key", "client_key"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key))
        self._describe()
        if isolated() and self.owner:
            self.client = subprocess.Popen(["unshare", "--net", "sleep", "1000000"])
        self.boot()

    def _tools(self):
        """Return the board's PATH: the system's, with our rsync where there is one."""
        return f"{started('rsync', self.folder / 'bin')}:/usr/bin:/bin"

    def _describe(self):
        given = {"folder": self.folder, "address": self.address, "port": self.port, "user": Path.home().owner()}
        variables = " ".join(f'"{name}={value}"' for name, value in self.environment.items())
        (self.folder / "sshd_config").write_text(SERVER.format(**given, environment=variables))
        self.config.write_text(USER.format(**given, name=self.name))
        key = (self.folder / "host_key.pub").read_text().split()[:2]
        (self.folder / "known_hosts").write_text(f"[{self.address}]:{self.port} {' '.join(key)}\n")
        users = f"{given['user']}:x:{os.getuid()}:{os.getgid()}::{self.folder}:/bin/sh\n"
        (self.folder / "machine-id").write_text(f"{self.number:032x}\n")
        (self.folder / "passwd").write_text(users + "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")

    # Power and the network

    def boot(self):
        """Start the board."""
        within = []
        if isolated():
            spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
            outer = subprocess.Popen([*spaces, "sleep", "1000000"], env=TOOLS, stderr=subprocess.DEVNULL)
            self.processes.append(outer)
            self.init = wait(lambda: _children(outer.pid))[0]
            within = ["nsenter", "--target", str(self.init), "--mount", "--net", "--pid"]
            wait(lambda: os.readlink(f"/proc/{self.init}/ns/net") != os.readlink("/proc/self/ns/net"))
            self._furnish(within)
        server = [program("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.processes.append(subprocess.Popen([*within, *server], env=TOOLS, stderr=subprocess.DEVNULL))
        wait(self.answers)

    def _furnish(self, within):
        """Give a new board its link to the client, an sshd user, and its disk."""
        run(*within, "mount", "--bind", str(self.folder / "passwd"), "/etc/passwd")
        if os.path.exists("/etc/machine-id"):
            run(*within, "mount", "--bind", str(self.folder / "machine-id"), "/etc/machine-id")
        run(*within, "mount", "-t", "tmpfs", "none", "/run")
        run(*within, "mkdir", "/run/sshd")
        if self.size:
            run(*within, "mount", "-t", "tmpfs", "-o", f"size={self.size}", "none", str(self.work))
        enter, device = self.entering(), f"host{self.number}"
        old = [*enter, program("ip"), "link", "delete", device]
        subprocess.run(old, env=TOOLS, stderr=subprocess.DEVNULL)
        peer = ["peer", "name", "board0", "netns", str(self.init)]
        run(*enter, program("ip"), "link", "add", device, "type", "veth", *peer)
        for space, name, address in ((enter, device, self.here), (within, "board0", self.address)):
            run(*space, program("ip"), "address", "add", f"{address}/24", "dev", name)
            for used in ("lo", name):
                run(*space, program("ip"), "link", "set", "dev", used, "up")

    def entering(self):
        """Return the words that a command starts with to be in the client's network."""
        return ["nsenter", "--target", str(self.client.pid), "--net"] if self.client else []

    def answers(self):
        ask = f"import socket; socket.create_connection(('{self.address}', {self.port}), 1)"
        return subprocess.run([*self.entering(), sys.executable, "-c", ask], stderr=subprocess.DEVNULL).returncode == 0

    def cut(self):
        """Cut the link; the board's jobs go on."""
        if isolated():
            run("nsenter", "--target", str(self.init), "--net", program("ip"), "link", "set", "dev", "board0", "down")
        else:
            self._end(_descendants(self.processes[-1].pid))

    def restore(self):
        """Restore the link."""
        if isolated():
            run("nsenter", "--target", str(self.init), "--net", program("ip"), "link", "set", "dev", "board0", "up")
        else:
            self.boot()

    def lose_power(self):
        """End everything on the board at once."""
        if not self.processes:
            return
        if isolated():
            os.kill(self.init, signal.SIGKILL)
        else:
            self._end([*_descendants(self.processes[-1].pid), *self._marked()])
        for process in self.processes:
            process.wait(10)
        self.processes.clear()

    def _marked(self):
        """Return the processes that were started over this board's connections."""
        mark, found = f"LEVIT_TEST_BOARD={self.folder}".encode(), []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                found += [int(entry.parent.name)] if mark in entry.read_bytes().split(b"\0") else []
        return found

    @staticmethod
    def _end(numbers):
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def stop(self):
        self.lose_power()
        if self.client and self.owner:
            self.client.kill()
            self.client.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    # What a test asks

    @property
    def variables(self):
        """Return the environment of a client, with the network that a fork (fork_server.py) is to enter."""
        tools = {"PATH": TOOLS["PATH"], "LD_LIBRARY_PATH": TOOLS["LD_LIBRARY_PATH"]}
        network = {fork_server.NETWORK: f"/proc/{self.client.pid}/ns/net"} if self.client else {}
        return {**tools, "XDG_RUNTIME_DIR": str(self.folder), **network}

    def row(self, **more):
        """Return the keys of a target's row that reach this board."""
        return {
            "ssh": self.name,
            "ssh_config": str(self.config),
            "workdir": str(self.work),
            "python": sys.executable,
            **more,
        }

    def seen(self):
        """Return the work folder as it is seen here, whatever is mounted there."""
        return Path(f"/proc/{self.init}/root{self.work}") if isolated() else self.work

    def clock(self):
        """Return the seconds since 1970 that the board's clock shows."""
        command = [
            *self.entering(),
            program("ssh"),
            "-F",
            str(self.config),
            self.name,
            f"{sys.executable} -c 'import time; print(time.time())'",
        ]
        return float(subprocess.check_output(command, env=TOOLS))


def made(**options):
    """Return a board in a new folder with a short name: sockets have short paths."""
    return Board(tempfile.mkdtemp(prefix="levit-", dir="/tmp"), **options)


class Rack:
    """Several boards of one kind, which the first one's client reaches."""

    def __init__(self, count):
        self.boards = [made()]
        self.boards += [made(beside=self.boards[0]) for _ in range(count - 1)]
        self.config = self.boards[0].folder / "rack_config"
        self.config.write_text("".join(board.config.read_text() for board in self.boards))

    def row(self, **more):
        """Return the keys of a target's row that reach these boards."""
        names = [board.name for board in self.boards]
        return self.boards[0].row(ssh=names, ssh_config=str(self.config), workdir="~/work", **more)

    def stop(self):
        for board in reversed(self.boards):
            board.stop()


def _free_port():
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def _children(number):
    with contextlib.suppress(OSError):
        return [int(text) for text in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return []


def _descendants(number):
    """Return a process and all that it started and did not let go of."""
    return [number] + [found for child in _children(number) for found in _descendants(child)]


def wait(question, seconds=15):
    """Return what a question answers once it is something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            answer = question()
            if answer:
                return answer
        time.sleep(0.05)
    raise TimeoutError(question)
