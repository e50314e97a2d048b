"""A board's connection: OpenSSH and rsync, with the user's own keys, known hosts, ports and jump hosts.

Every call sends the text of board_agent.py, which the board's interpreter reads from its stdin. Python 3.8.
"""

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
from pathlib import Path

from core.files import UserError, digest_of
from devices.board_agent import REPLY

HERE = Path(__file__).resolve().parent
FOLDER, PYTHON = "levit-tensorrt", "python3"  # on the board, where its row does not say
OPTIONS = {"BatchMode": "yes", "ConnectTimeout": "10", "ServerAliveInterval": "5", "ServerAliveCountMax": "3"}
NOTHING_ELSE = {"RemoteCommand": "none", "RequestTTY": "no", "ClearAllForwardings": "yes", "ForwardAgent": "no"}
SHARED = {"ControlMaster": "auto", "ControlPersist": "60"}  # one connection for all calls of a minute
BROKEN = (10, 12, 30, 35, 255)  # statuses of rsync that mean a lost connection
REFUSALS = (  # what ssh says -> what is to be done; no second try helps
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the known one, so nothing was sent: make sure that it is your board, then ssh-keygen -R",
    ),
    ("Host key verification failed", "its host key is not known: connect once by hand and compare it (ssh {ssh})"),
    ("Permission denied", "no key is accepted: ssh-copy-id {ssh}"),
    ("Bad configuration option", "its ssh configuration is refused: {said}"),
    ("Can't open user config file", "its ssh_config is not there: {said}"),
    ("Could not resolve hostname", "no such host: {said}"),
)


class Lost(Exception):
    """The connection is not there, now; its text is what ssh said."""


class Board:
    """A board, by its part of a row of `targets`: {"name", "ssh", "workdir"?, "python"?, "ssh_config"?}."""

    def __init__(self, row):
        self.name, self.destination = row["name"], row["ssh"]
        self.folder, self.python = row.get("workdir") or FOLDER, row.get("python") or PYTHON
        self.config = os.path.expanduser(row.get("ssh_config") or "")
        self.client = hashlib.sha256(f"{platform.node()}:{os.getcwd()}".encode()).hexdigest()[:12]
        self.heard = time.monotonic()

    def ssh(self):
        """Return the command line of ssh without a destination."""
        words = ["ssh", *(["-F", self.config] if self.config else [])]
        options = {**OPTIONS, **NOTHING_ELSE, **SHARED, "ControlPath": self.control_path()}
        return words + [word for option in options.items() for word in ("-o", "=".join(option))]

    def control_path(self):
        """Return a short path for the shared connection's socket, in a folder that is the user's alone."""
        places = [os.environ.get("XDG_RUNTIME_DIR") or "", tempfile.gettempdir()]
        place = next((p for p in places if p and len(p) < 50 and os.access(p, os.W_OK)), "/tmp")
        folder = Path(place, f"levit-ssh-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
            raise UserError(f"{folder} must be a folder of yours that nobody else can read: remove it")
        return str(folder / digest_of([self.destination, os.path.abspath(self.config)])[:16])

    def hang_up(self):
        """Give up a shared connection that may be half dead."""
        command = [*self.ssh(), "-O", "exit", "--", self.destination]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, function, sink=None, site=False, **parameters):
        """Return the reply of a function of board_agent.py; `sink` gets the bytes of a job's log.

        site: whether the function looks at installed packages, which takes the interpreter longer to start.

        Raises Lost, or UserError for what no second try helps.
        """
        request = {"do": function, "folder": self.folder, **parameters}
        agent = (HERE / "board_agent.py").read_text(encoding="utf-8")
        program = agent + f"\nmain(json.loads({json.dumps(request)!r}))\n"
        command = [*self.ssh(), "--", self.destination, f"exec {shlex.quote(self.python)} {'' if site else '-S '}-"]
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(program.encode())
                    process.stdin.close()
                for block in iter(lambda: os.read(process.stdout.fileno(), 1 << 16), b""):
                    self.heard = time.monotonic()
                    if sink:
                        sink(block)
            return self._reply(process.returncode, _text_of(said))

    def _reply(self, status, said):
        found = [line[len(REPLY) :] for line in said.splitlines() if line.startswith(REPLY)]
        if not found:
            raise self._failure(status, said, self.python)
        self.heard, reply = time.monotonic(), json.loads(found[-1])
        if "problem" in reply:
            raise UserError(reply["problem"])
        return reply

    def _failure(self, status, said, program):
        """Return the exception for a status of ssh or rsync without a reply."""
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        last = lines[-1] if lines else "no message"
        for words, remedy in REFUSALS:
            if words in said:
                return UserError(remedy.format(ssh=self.destination, said=last))
        if status == 255:
            return Lost(last)
        if status in (126, 127):
            return UserError(f"{program} does not run there: {last}")
        return UserError(f"{program} there ended with status {status}: {last}")

    def rsync(self, *words, listed=()):
        """Run rsync over the same connection and return the bytes of content that it moved; raise Lost or UserError."""
        command = ["rsync", "--append-verify", "--protect-args", "--stats", "--rsh", shlex.join(self.ssh()), *words]
        with tempfile.TemporaryFile() as counted, tempfile.TemporaryFile() as told:  # no pipes: ssh stays for a while
            status = subprocess.run(command, input="\n".join(listed).encode(), stdout=counted, stderr=told).returncode
            stats, said = (_text_of(stream) for stream in (counted, told))
        if status == 0:
            self.heard = time.monotonic()
            return int(re.search(r"Literal data: ([\d,]+)", stats).group(1).replace(",", ""))
        full = [line for line in said.splitlines() if "No space left on device" in line]
        if full:
            raise UserError(f"no space left: {full[0]} (docs/remote.md says what may be deleted)")
        raise self._failure(255 if status in BROKEN else status, said, "rsync")

    def at(self, path):
        """Return a path on the board as rsync names it."""
        return f"{self.destination}:{path}"

    def tell(self, text):
        print(f"{self.name}: {text}", file=sys.stderr, flush=True)


def _text_of(stream):
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")
