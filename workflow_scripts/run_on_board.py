"""Run a command line of a target's job on a board, over OpenSSH and rsync, as if it ran here.

    run_on_board.py --board '{"name": ...}' --inputs FILE... --outputs FILE... -- workflow_scripts/benchmark.py ...

Inputs are sent once, by content; outputs are fetched and checked. After a lost connection, transfers resume and the job
continues; a later run of the same command attaches to it as well. Standard library only, Python 3.8.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core import command, provenance
from core.files import UserError, digest_of, partial_of, sha256_file
from devices.board_agent import LOG, partial_name
from devices.rack import Rack
from devices.ssh import Board, ConnectionLost
from measure.benchmark_cache import RETIME

PATIENCE = 900  # seconds without a connection after which the host gives up
MOVING = 180  # of them after which another board takes the job
LONGEST_PAUSE = 30  # seconds between two tries
T = TypeVar("T")
FULL = 1_000_000  # bytes: a board with fewer is called full
LOG_ONLY = bool(os.environ.get("LEVIT_LOG_ONLY"))  # a job's messages go to its log alone (core/command.py)
TRIES = 3  # of a job that died without a status, or whose files arrived damaged


class NoConnection(UserError):
    """A board was not reached for as long as a job waits for it."""


def patience(board: Board) -> float:
    """Return for how many seconds a job waits for its board: $LEVIT_SSH_PATIENCE, or what the board's row says."""
    seconds = os.environ.get("LEVIT_SSH_PATIENCE") or board.patience
    try:
        return float(seconds)
    except ValueError:
        raise UserError(f"LEVIT_SSH_PATIENCE={seconds}: give a number of seconds, or nothing") from None


def retry(board: Board, step: Callable[[], T]) -> T:
    """Return the result of `step`, which is tried again while the connection is lost, or raise NoConnection."""
    pause, limit = 1, patience(board)
    while True:
        start = time.monotonic()
        try:
            return step()
        except ConnectionLost as problem:
            if board.last_contact > start:
                pause = 1
            elif start - board.last_contact > limit:
                raise NoConnection(
                    f"{board.name}: no connection for {limit:.0f} s ({problem}): a running job continues there, and "
                    "the same command attaches to it"
                ) from None
            board.log(f"the connection is lost ({problem}): trying again in {pause} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            board.hang_up()


class BoardJob:
    """A command line on a board, with the paths of its inputs, which are sent, and outputs, which are fetched."""

    board: Board

    def __init__(self, python: str, inputs: list[str], outputs: list[str], argv: list[str]):
        outside = [path for path in [*inputs, *outputs] if os.path.isabs(path) or ".." in Path(path).parts]
        if outside:
            raise UserError(f"{outside[0]} is not below this folder: a board's jobs see nothing else")
        provenance.check_all(inputs)
        files = {path: sha256_file(path) for path in [*inputs, *provenance.recorded(inputs)]}
        request = {"argv": argv, "outputs": outputs, "log": _log_of(argv), "files": files, **_retiming(outputs)}
        request["records"] = list(map(provenance.beside, outputs))
        self.request = {**request, "key": digest_of([request, python])[:32]}
        self.sources = {digest: path for path, digest in files.items()}
        self.sizes = {digest: os.path.getsize(path) for digest, path in self.sources.items()}
        self.token, self.offset, self.moved = os.urandom(8).hex(), 0, {"sent": 0, "received": 0}

    def run(self, rack: Rack) -> dict:
        """Run the job on a free board, or on another one where that stops answering; return the board's reply."""
        for _ in rack.boards:
            with rack.reserved(self._look) as board:
                others = set(rack.present()) - {board}
                board.patience = MOVING if others else PATIENCE
                try:
                    return self._run_on(board)
                except NoConnection:
                    if not others:
                        raise
                    rack.leave_out(board)
        return self._run_on(rack.boards[0])

    def _look(self, board):
        return board.ask("look", key=self.request["key"], sizes=self.sizes)

    def _run_on(self, board):
        """Send missing inputs, run the job, fetch its outputs; return the board's reply with the exit status."""
        self.board, self.offset = board, 0
        for _ in range(TRIES):
            reply = retry(self.board, self._run)
            if "missing" in reply:
                reply = self._send(reply)
            if reply.get("exit") is not None and self._fetch(reply):
                retry(board, lambda: board.ask("forget", key=self.request["key"], client=board.client))
                return reply
        raise UserError(
            f"{self.board.name}: {TRIES} tries failed without a status: is the board losing power, or out of memory?"
        )

    def _send(self, reply):
        """Send the objects that a reply names as missing, then run the job; return the new reply."""
        retry(self.board, lambda: self._send_once(reply))
        reply = retry(self.board, self._run)
        if "missing" in reply:
            self.board.log(f"{len(reply['missing'])} files arrived damaged: sending them again")
        return reply

    def _send_once(self, reply):
        needed = sum(self.sizes[digest] for digest in reply["missing"]) - reply["began"]
        if needed > reply["free"]:
            raise UserError(
                f"{self.board.name}: {reply['folder']} there has {reply['free'] / 1e6:.1f} MB free, and "
                f"{needed / 1e6:.1f} MB are to be sent: free some (docs/remote.md lists what may be deleted)"
            )
        with tempfile.TemporaryDirectory() as staging:
            for digest in reply["missing"]:  # a partial object is resumed
                name = partial_name(digest, self.board.client)
                os.symlink(os.path.abspath(self.sources[digest]), os.path.join(staging, name))
            objects = f"{self.board.destination}:{reply['folder']}/objects/"
            self.moved["sent"] += self.board.rsync("--recursive", "--copy-links", f"{staging}/", objects)

    def _run(self):
        state: dict = {"sizes": self.sizes, "client": self.board.client, "token": self.token, "offset": self.offset}
        return self.board.ask("run", _LogStream(self), job=self.request, **state)

    def _fetch(self, reply):
        """Fetch outputs to their `.partial` paths and rename all if all are intact; return whether they were."""
        expected = {*self.request["outputs"], *self.request["records"], self.request["log"]}
        wanted = {path: digest for path, digest in reply["outputs"].items() if path in expected}
        if wanted:
            retry(self.board, lambda: self._fetch_once(wanted, reply["back"]))
        damaged = [path for path, digest in wanted.items() if not _has_digest(partial_of(path), digest)]
        for path in damaged:
            Path(partial_of(path)).unlink(missing_ok=True)
        if not damaged:
            provenance.take({partial_of(path): path for path in wanted})
        return not damaged

    def _fetch_once(self, wanted, folder):
        source, listed = f"{self.board.destination}:{folder}/", [partial_of(path) for path in wanted]
        self.moved["received"] += self.board.rsync("--files-from=-", source, "./", listed=listed)


class _LogStream:
    """Writes to stderr what a board streams while a job runs: a line with the log's byte offset, then the log."""

    START = re.compile(LOG.format(r"(\d+)").encode())

    def __init__(self, job):
        self.job = job
        self.header: bytes | None = b""

    def __call__(self, block):
        if self.header is not None:
            self.header += block
            start = self.START.search(self.header)
            if start is None:
                return
            self._begin(int(start.group(1)))
            block, self.header = self.header[start.end() :], None
        self.job.offset += len(block)
        if not LOG_ONLY:
            sys.stderr.buffer.write(block)
            sys.stderr.buffer.flush()

    def _begin(self, offset):
        if offset < self.job.offset:
            self.job.board.log("the job died there without a status (loss of power?): it runs again")
        self.job.offset = offset


def _has_digest(path, digest):
    return os.path.exists(path) and sha256_file(path) == digest


def _retiming(outputs):
    """Return the environment of a job whose timing is forced (retime.py), or nothing."""
    forced = [path for path in os.environ.get(RETIME, "").split(os.pathsep) if path in outputs]
    return {"environment": {RETIME: os.pathsep.join(forced)}} if forced else {}


def _log_of(argv):
    """Return the log file of a command line (command.py gives every command `--log`), or None."""
    return argv[argv.index("--log") + 1] if "--log" in argv else None


def parse(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return (the arguments before the first `--`, the command line after it)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=json.loads, required=True, help="JSON; `ssh` may be a list")
    parser.add_argument("--home", help="what timings have in common that stay on one of several boards")
    parser.add_argument("--inputs", nargs="*", default=[], help="files that the command line reads, code included")
    parser.add_argument("--outputs", nargs="*", default=[], help="files that it writes")
    cut = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:cut]), words[cut + 1 :]


def main() -> None:
    """Run one job, as a subprocess of Snakemake."""
    args, argv = parse(sys.argv[1:])
    lock, began = command.hold(os.environ.get("LEVIT_JOBS")), time.time()
    try:
        rack = Rack(args.board, args.home)
        job = BoardJob(rack.boards[0].python, args.inputs, args.outputs, argv)
        reply, name = job.run(rack), job.board.name
        for line in rack.warnings:
            _say(f"warning: {line}", _log_of(argv), began)
        _say(f"{name}: sent {job.moved['sent']:,} bytes, received {job.moved['received']:,}", _log_of(argv), began)
        _check(reply, name)
    except (UserError, OSError) as problem:
        _say(f"error: {problem}", _log_of(argv), began)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit("interrupted: a running job continues on the board, and the same command attaches to it")
    finally:
        if lock:
            lock.close()


def _say(text, log, began):
    """Print a line, or write it to the job's log, which is made anew where it is older than the job."""
    if not (log and LOG_ONLY):
        print(text, file=sys.stderr, flush=True)
        return
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    is_new = os.path.exists(log) and os.path.getmtime(log) >= began - 1
    with open(log, "a" if is_new else "w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")


def _check(reply, name):
    """Raise UserError where a job failed; its own log tells why, unless the board's disk is full."""
    if reply["exit"] and reply["free"] < FULL:
        problem = f"{reply['free']} bytes are free there: free some (docs/remote.md lists what may be deleted)"
        raise UserError(f"{name}: {problem}")
    if reply["exit"]:
        raise UserError(f"{name}: the command there ended with status {reply['exit']}")


if __name__ == "__main__":
    main()
