"""The callers' side of fork_server.py: programs that start as forks, with the interface of subprocess.Popen."""

import array
import atexit
import functools
import hashlib
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fork_server

SERVER = Path(fork_server.__file__)
QUIET = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # what is forked has no threads but its own
QUIET["GOMP_SPINCOUNT"] = "1000"  # as commands set it, but they do so after the server imported torch
WITH_TORCH = ("code_hashes", "torch", "timm", "modelopt.torch.quantization", "onnx", "onnx_graphsurgeon")
WITHOUT_TORCH = (
    "code_hashes",
    "onnx",
    "onnx_graphsurgeon",
    "PIL.Image",
)  # nor OpenVINO: a job of a runtime imports its own
CLIENT = '''#!{python} -IS
"""Run a program as a fork of a server (fork_server.py); without one, as a process."""
import posix
import sys

words = [word.encode("utf-8", "surrogateescape") for word in sys.argv[1:]]
words = words if words[:1] == [b"-c"] else {program!r} + words
what = b" ".join(words) + (b"" if words[0][:1] == b"-" or not {routes!r} else open(words[0], "rb").read())
environment = [name + b"=" + value for name, value in posix.environ.items()] + {more!r}
try:
    import _socket

    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    route = [address for word, address in {routes!r} if word in what]
    server.connect(b"\\0" + ([*route, {address!r}][0] or posix.environ[b"LEVIT_FORKS"]))
    files = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
    request = b"\\0".join([posix.getcwd().encode("utf-8", "surrogateescape"), b"%d" % len(words), *words, *environment])
    server.sendmsg([request], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
except (KeyError, OSError):
    posix.execve({python!r}, [{python!r}.encode(), *words], posix.environ)
server.recv(64)
status = int(server.recv(64) or 9)
if status & 127:
    posix.kill(posix.getpid(), status & 127)
posix._exit(status >> 8)
'''


def client(path, *program, python=sys.executable, address="", routes=(), named=False):
    """Write an executable that runs a program (or none: it is an interpreter) as a fork of a server.

    address: of the server; by default, $LEVIT_FORKS when it is run; routes: (word, address) of the servers of programs
    in whose command line or text a word is; named: whether it is its programs' sys.executable.
    """
    words, routes = [os.fsencode(word) for word in program], [(word.encode(), to.encode()) for word, to in routes]
    more = [os.fsencode(f"LEVIT_EXECUTABLE={path}")] if named else []
    path.write_text(
        CLIENT.format(python=str(python), program=words, address=address.encode(), routes=routes, more=more)
    )
    path.chmod(0o755)


@functools.cache
def interpreter(*modules):
    """Return an interpreter whose programs start as forks of one that has imported some modules."""
    path = Path(folder()) / "python"
    client(path, address=address_of(sys.executable, *modules))
    return str(path)


def folder():
    folder = tempfile.mkdtemp(prefix="levit-forks-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def python_with_torch():
    return interpreter(*WITH_TORCH)


def python_without_torch():
    return interpreter("code_hashes", "jsonschema", "numpy", "onnx", "PIL.Image", "requests")


@functools.cache
def working_python():
    """Return an interpreter for jobs that do their work, forked from torch where they load it: see `tools` of commands.

    OpenVINO and torch share no process, so no server has imported OpenVINO.
    """
    path, torch = Path(folder()) / "python", address_of(sys.executable, *WITH_TORCH)
    routes = [(word, torch) for word in ('"timm"', "--runtime pytorch")]
    client(path, address=address_of(sys.executable, *WITHOUT_TORCH), routes=routes)
    return str(path)


@functools.cache
def address_of(python, *modules):
    """Return the address of a server of an interpreter that has imported some modules: one for all test processes."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    address = hashlib.sha256("\0".join([session, str(python), *modules]).encode()).hexdigest()
    while not _keep(address):
        _start(address, python, modules)
    return address


def _keep(address):
    """Hold on to a server until this process ends; return whether it was there."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"\0{address}")
        connection.send(fork_server.KEEP)
        _connections.append(connection)
        return connection.recv(64)
    except OSError:
        return False


def _start(address, python, modules):
    """Start a server, or wait for the one that another process started just before."""
    environment = {**os.environ, **QUIET, "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.Popen(
        [python, str(SERVER), address, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    if process.stdout.readline() == b"ready\n":
        _servers.append(process)
    else:
        assert process.wait() == fork_server.TAKEN, f"{python}: no server of forks"


_servers, _connections = [], []


@atexit.register
def _stop():
    for connection in _connections:
        connection.close()
    for process in _servers:
        process.stdin.close()
        process.wait()


class Fork:
    """A program that leads a process group of its own, with its output in a pipe."""

    def __init__(self, address, arguments, cwd, env):
        self.returncode, self.args = None, arguments
        reader, writer = os.pipe()
        self.stdout = os.fdopen(reader, encoding="utf-8", errors="replace")  # noqa: SIM115
        words = [
            str(cwd),
            str(len(arguments)),
            *map(str, arguments),
            *(f"{name}={value}" for name, value in env.items()),
        ]
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._server.connect(f"\0{address}")
        with open(os.devnull) as nothing:
            files = array.array("i", [nothing.fileno(), writer, writer])
            request = b"+" + b"\0".join(map(os.fsencode, words))
            self._server.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            self.pid = int(self._server.recv(64))
        os.close(writer)

    def poll(self):
        return self.returncode if self.returncode is not None else self._ended(0)

    def wait(self, timeout=None):
        if self.returncode is None and self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended(self, timeout):
        if select.select([self._server], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._server.recv(64)))
            self._server.close()
        return self.returncode

    def communicate(self, timeout=None):
        """Return the output to its end, and None."""
        deadline, chunks = time.monotonic() + (timeout or 1e9), []
        while select.select([self.stdout], [], [], deadline - time.monotonic())[0]:
            chunks.append(os.read(self.stdout.fileno(), 1 << 16))
            if not chunks[-1]:
                self.stdout.close()
                self.wait(max(0, deadline - time.monotonic()))
                return b"".join(chunks).decode(errors="replace"), None
        raise subprocess.TimeoutExpired(self.args, timeout)
