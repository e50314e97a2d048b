"""A connection to a board: OpenSSH and rsync, with the user's own keys, known hosts, ports and jump hosts.

Each call sends the text of board_agent.py to the stdin of the board's interpreter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from core.files import UserError, digest_of
from devices.board_agent import REPLY

HERE = Path(__file__).resolve().parent
FOLDER, PYTHON = "levit-tensorrt", "python3"  # on the board; defaults of its row
ALIVE = {"ServerAliveInterval": os.environ.get("LEVIT_SSH_ALIVE") or "5", "ServerAliveCountMax": "3"}  # seconds, tries
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": "10", **ALIVE}
NOTHING_ELSE = {"RemoteCommand": "none", "RequestTTY": "no", "ClearAllForwardings": "yes", "ForwardAgent": "no"}
SHARED = {"ControlMaster": "auto", "ControlPersist": "60"}  # one connection for all calls of a minute
BROKEN = (10, 12, 30, 35, 255)  # statuses of rsync that mean a lost connection
REFUSALS = (  # what ssh prints -> the remedy; no second try helps
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key has changed, so nothing was sent: make sure that it is your board, then ssh-keygen -R",
    ),
    ("Host key verification failed", "its host key is not known: connect once by hand and compare it (ssh {ssh})"),
    ("Permission denied", "no key is accepted: ssh-copy-id {ssh}"),
    ("Bad configuration option", "its ssh configuration is refused: {line}"),
    ("Can't open user config file", "its ssh_config is not there: {line}"),
    ("Could not resolve hostname", "no such host: {line}"),
    ("future feature annotations is not defined", "its Python is older than 3.8: name another as `python` in its row"),
)


class ConnectionLost(Exception):
    """The board cannot be reached now; the text is the last line that ssh printed."""


class Board:
    """A board, by its part of a row of `targets`: {"name", "ssh", "workdir"?, "python"?, "ssh_config"?}."""

    def __init__(self, row: dict):
        self.name, self.destination = row["name"], row["ssh"]
        self.folder, self.python = row.get("workdir") or FOLDER, row.get("python") or PYTHON
        self.config = os.path.expanduser(row.get("ssh_config") or "")
        self.client = hashlib.sha256(f"{platform.node()}:{os.getcwd()}".encode()).hexdigest()[:12]
        self.last_contact, self.patience = time.monotonic(), 0.0

    def ssh(self) -> list[str]:
        """Return the command line of ssh without a destination."""
        words = ["ssh", *(["-F", self.config] if self.config else [])]
        options = {**OPTIONS, **NOTHING_ELSE, **SHARED, "ControlPath": self.control_path()}
        return words + [word for option in options.items() for word in ("-o", "=".join(option))]

    def control_path(self) -> str:
        """Return a short path for the shared connection's socket, in a folder that only the user can read."""
        parents = [os.environ.get("XDG_RUNTIME_DIR") or "", tempfile.gettempdir()]
        parent = next((p for p in parents if p and len(p) < 50 and os.access(p, os.W_OK)), "/tmp")
        folder = Path(parent, f"levit-ssh-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
            raise UserError(f"{folder} must be a folder that you own and nobody else can read: remove it")
        return str(folder / digest_of([self.destination, os.path.abspath(self.config)])[:16])

    def hang_up(self) -> None:
        """Close the shared connection, which may be half dead."""
        command = [*self.ssh(), "-O", "exit", "--", self.destination]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(
        self, function: str, sink: Callable[[bytes], None] | None = None, site: bool = False, **parameters: object
    ) -> dict:
        """Return the reply of a function of board_agent.py; `sink` gets the bytes of a job's log.

        site: whether the function needs installed packages, with which the interpreter starts more slowly.
        Raises ConnectionLost, or UserError where no second try helps.
        """
        request = {"do": function, "folder": self.folder, **parameters}
        agent = (HERE / "board_agent.py").read_text(encoding="utf-8")
        program = agent + f"\nmain(json.loads({json.dumps(request)!r}))\n"
        command = [*self.ssh(), "--", self.destination, f"exec {shlex.quote(self.python)} {'' if site else '-S '}-"]
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process:
                self._exchange(process, program, sink)
            return self._reply(process.returncode, _text_of(errors))

    def _exchange(self, process, program, sink):
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(program.encode())
            process.stdin.close()
        for block in iter(lambda: os.read(process.stdout.fileno(), 1 << 16), b""):
            self.last_contact = time.monotonic()
            if sink:
                sink(block)

    def _reply(self, status, errors):
        replies = [line[len(REPLY) :] for line in errors.splitlines() if line.startswith(REPLY)]
        try:
            reply = json.loads(replies[-1])
        except (IndexError, ValueError):  # none, or one that a lost connection cut
            raise self._failure(status, errors, self.python) from None
        self.last_contact = time.monotonic()
        if "problem" in reply:
            raise UserError(reply["problem"])
        return reply

    def _failure(self, status, errors, program):
        """Return the exception for a status of ssh or rsync without a reply."""
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        last = lines[-1] if lines else "no message"
        for words, remedy in REFUSALS:
            if words in errors:
                return UserError(remedy.format(ssh=self.destination, line=last))
        if status == 255:
            return ConnectionLost(last)
        if status in (126, 127):
            return UserError(f"{program} does not run there: {last}")
        return UserError(f"{program} there ended with status {status}: {last}")

    def rsync(self, *words: str, listed: Iterable[str] = ()) -> int:
        """Run rsync with a list on its stdin; return the bytes moved; raise ConnectionLost, UserError as `ask`."""
        command = ["rsync", "--append-verify", "--protect-args", "--stats", "--rsh", shlex.join(self.ssh()), *words]
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:  # ssh outlives it and holds pipes
            done = subprocess.run(command, input="\n".join(listed).encode(), stdout=output, stderr=errors)
            stats, text = _text_of(output), _text_of(errors)
        if done.returncode == 0:
            self.last_contact = time.monotonic()
            return int("".join(re.findall(r"Literal data: ([\d,]+)", stats)).replace(",", ""))
        full = [line for line in text.splitlines() if "No space left on device" in line]
        if full:
            raise UserError(f"no space left: {full[0]} (docs/remote.md lists what may be deleted)")
        raise self._failure(255 if done.returncode in BROKEN else done.returncode, text, "rsync")

    def log(self, text: str) -> None:
        """Print a line about this board on stderr."""
        clear = "\r\033[K" if sys.stderr.isatty() else ""  # the line of a job at work
        print(f"{clear}{self.name}: {text}", file=sys.stderr, flush=True)


def _text_of(stream):
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")
