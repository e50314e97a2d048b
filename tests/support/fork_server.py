"""Start Python programs by forking a process that has imported what they need: neither interpreter nor imports cost.

    fork_server.py ADDRESS MODULE...  # listens on an abstract Unix socket, until its standard input ends

A request is one packet: the working directory, the number of arguments, the arguments and the environment, joined by
NUL, with the program's standard files beside it. The program joins its caller's process group, or leads one where the
first field is `+`. The answers are two packets: its process id, and the status that waitpid gives of it.
"""

import array
import atexit
import contextlib
import gc
import importlib
import os
import runpy
import select
import socket
import sys
import threading
import traceback


class Server:
    """A listening socket and the programs at work: {pidfd: (pid, connection)}."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.bind(f"\0{address}")
        self.socket.listen(128)
        self.programs = {}

    def serve(self):
        """Answer requests; return a request in each process that was forked for one, None at the end of the input."""
        poll = select.poll()
        poll.register(0, select.POLLIN | select.POLLHUP)
        poll.register(self.socket, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == 0:
                    return None
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
        for one in (self.socket, connection, *(other for _, other in self.programs.values())):
            one.detach()
        os.closerange(3, 1 << 16)


def _send(connection, number):
    with contextlib.suppress(OSError):  # the caller may be gone
        connection.send(str(number).encode())


def run(request, path):
    """Run the program of a request as the interpreter would; return its exit status."""
    folder, count, *words = map(os.fsdecode, request.lstrip(b"+").split(b"\0"))
    sys.argv, environment = words[: int(count)], words[int(count) :]
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(word.split("=", 1) for word in environment)
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    inline = sys.argv[0] == "-c"
    sys.path[:] = ["" if inline else os.path.dirname(sys.argv[0]), *added, *path]
    try:
        if inline:
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


def main(address, *modules):
    for module in modules:
        importlib.import_module(module)
    path = sys.path[1:]
    server = Server(address)
    gc.collect()
    gc.freeze()  # else a child's first collection copies every page
    print("ready", flush=True)
    request = server.serve()
    if request is None:
        return
    status = run(request, path)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
