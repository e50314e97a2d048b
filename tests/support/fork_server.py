"""Start Python programs by forking a process that has imported what they need: neither interpreter nor imports cost.

    fork_server.py ADDRESS MODULE...  # listens on an abstract Unix socket until no process needs it

A request is one packet: the working directory, the number of arguments, the arguments and the environment, joined by
NUL, with the program's standard files beside it. The program joins its caller's process group, or leads one where the
first field is `+`. The answers are two packets: its process id, and the status that waitpid gives of it.

A connection whose packet is KEEP is answered and stays open: the server ends when its standard input and all of these
have been closed.
"""

import array
import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import os
import runpy
import select
import socket
import sys
import threading
import traceback

KEEP = b"keep"
NETWORK = "LEVIT_NETWORK"  # in a program's environment: the file of the network namespace that it is to run in
TAKEN = 75  # the exit status where the address is another server's


class Server:
    """A listening socket, the programs at work: {pidfd: (pid, connection)}, and who needs it: {descriptor: file}."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(f"\0{address}")
        self.socket.listen(128)
        self.programs, self.keepers = {}, {0: None}

    def serve(self):
        """Answer requests; return a request in each process that was forked for one, None when no keeper is left."""
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        poll.register(self.socket, select.POLLIN)
        while self.keepers:
            for descriptor, _ in poll.poll():
                if descriptor in self.keepers:
                    poll.unregister(descriptor)
                    del self.keepers[descriptor]
                    continue
                if descriptor in self.programs:
                    poll.unregister(descriptor)
                    self._end(descriptor)
                    continue
                request = self._start(poll)
                if request:
                    return request

    def _end(self, descriptor):
        pid, connection = self.programs.pop(descriptor)
        _send(connection, os.waitpid(pid, 0)[1])
        connection.close()
        os.close(descriptor)

    def _start(self, poll):
        connection, _ = self.socket.accept()
        data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(12))
        if not data:  # the caller was killed
            return None
        if data == KEEP:
            self.keepers[connection.fileno()] = connection
            poll.register(connection, select.POLLIN | select.POLLHUP)
            _send(connection, os.getpid())
            return None
        files = array.array("i", ancillary[0][2])
        group = os.getpgid(
            int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), sys.byteorder)
        )
        pid = os.fork()
        if pid == 0:
            self._leave(connection, files)
            os.setpgid(0, 0 if data[:1] == b"+" else group)
            return data
        for file in files:
            os.close(file)
        descriptor = os.pidfd_open(pid)
        self.programs[descriptor] = (pid, connection)
        poll.register(descriptor, select.POLLIN)
        _send(connection, pid)
        return None

    def _leave(self, connection, files):
        """In a forked process: take the program's files, and close all that is the server's."""
        for number, file in enumerate(files):
            os.dup2(file, number)
        keepers = filter(None, self.keepers.values())
        for one in (self.socket, connection, *keepers, *(other for _, other in self.programs.values())):
            one.detach()
        os.closerange(3, 1 << 16)


def _send(connection, number):
    with contextlib.suppress(OSError):  # the caller may be gone
        connection.send(str(number).encode())


def run(request, path):
    """Run the program of a request as the interpreter would; return its exit status."""
    folder, count, *words = map(os.fsdecode, request.lstrip(b"+").split(b"\0"))
    sys.argv, environment = words[: int(count)], words[int(count) :]
    if sys.argv[0] == "-u":  # as execnet starts a test process: it flushes what it writes
        sys.argv.pop(0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in environment)
    sys.executable = os.environ.pop("LEVIT_EXECUTABLE", sys.executable)
    os.execve = functools.partial(execute_again, os.execve, list(sys.argv))
    if "code_hashes" in sys.modules and os.path.exists(os.path.join(sys.path[0], "core/sources.py")):
        sys.modules["code_hashes"].look_up()
    if NETWORK in os.environ:
        enter(os.environ.pop(NETWORK))
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    inline = sys.argv[0] in ("-c", "-m")
    sys.path[:] = ["" if inline else os.path.dirname(sys.argv[0]), *added, *path]
    try:
        if sys.argv[0] == "-m":
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        elif inline:
            code = sys.argv.pop(1)
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 255
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def execute_again(execve, own, path, words, environment):
    """Replace this process by its own program where the words are those of /proc/self/cmdline: the server's."""
    execve(path, [sys.executable, *own] if __file__ in words else words, environment)


def enter(namespace):
    """Enter a namespace: Python has os.setns from 3.12 on."""
    descriptor = os.open(namespace, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0):
        raise OSError(ctypes.get_errno(), f"{namespace} cannot be entered")
    os.close(descriptor)


def main(address, *modules):
    try:
        server = Server(address)
    except OSError:
        sys.exit(TAKEN)
    for module in modules:
        importlib.import_module(module)
    path = sys.path[1:]
    gc.collect()
    gc.freeze()  # else a child's first collection copies every page
    gc.set_threshold(100_000, 20, 20)  # a child ends before garbage matters
    print("ready", flush=True)
    request = server.serve()
    if request is None:
        os._exit(0)
    status = run(request, path)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
