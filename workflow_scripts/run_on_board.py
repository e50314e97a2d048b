"""Run a command line of the device half on a board, over OpenSSH and rsync, as if it ran here.

    run_on_board.py --board '{"name": ...}' --inputs FILE... --outputs FILE... -- workflow_scripts/benchmark.py ...

Files go to the board by content, once, and what it makes comes back checked. A lost connection is tried again:
transfers go on where they were, and so does the job, which a later run of the same command finds too. Python 3.8.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from core import command, provenance
from core.files import UserError, digest_of, partial_of, sha256_file
from devices.board_agent import LOG, partial_name
from devices.ssh import Board, Lost
from measure.benchmark_cache import RETIME

PATIENCE = 900  # seconds without a connection after which a job is left alone
LONGEST_PAUSE = 30  # seconds between two tries
FULL = 1_000_000  # bytes: a board with fewer is called full
TRIES = 3  # of a job that ended with no status, or whose files came damaged: loss of power, a killed process


def patiently(board, step):
    """Return what `step` gives; where the connection is lost, wait and try again."""
    pause, limit = 1, float(os.environ.get("LEVIT_SSH_PATIENCE") or PATIENCE)
    while True:
        tried = time.monotonic()
        try:
            return step()
        except Lost as problem:
            if board.heard > tried:
                pause = 1
            elif tried - board.heard > limit:
                raise UserError(
                    f"{board.name}: no connection for {limit:.0f} s ({problem}): a job that it has goes on there, and "
                    "the same command finds it again"
                ) from None
            board.tell(f"the connection is lost ({problem}): trying again in {pause} s")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            board.hang_up()


class Job:
    """A command line with its files: paths of its inputs, which are sent, and of its outputs, which are fetched."""

    def __init__(self, board, inputs, outputs, argv):
        outside = [path for path in [*inputs, *outputs] if os.path.isabs(path) or ".." in Path(path).parts]
        if outside:
            raise UserError(f"{outside[0]} is not below this folder: a board's jobs see nothing else")
        provenance.check_all(inputs)
        files = {path: sha256_file(path) for path in [*inputs, *provenance.recorded(inputs)]}
        described = {"argv": argv, "outputs": outputs, "log": _log_of(argv), "files": files, **_again(outputs)}
        described["records"] = list(map(provenance.beside, outputs))
        self.described = {**described, "key": digest_of([described, board.python])[:32]}
        self.board, self.sources = board, {digest: path for path, digest in files.items()}
        self.sizes = {digest: os.path.getsize(path) for digest, path in self.sources.items()}
        self.token, self.offset, self.moved = os.urandom(8).hex(), 0, {"sent": 0, "received": 0}

    def do(self):
        """Send what is missing, have the job done, fetch what it made; return the reply with its exit status."""
        for _ in range(TRIES):
            reply = patiently(self.board, self._run)
            if "missing" in reply:
                reply = self._send(reply)
            if reply.get("exit") is not None and self._fetch(reply):
                patiently(self.board, self._forget)
                return reply
        raise UserError(
            f"{self.board.name}: {TRIES} tries came to no end: is the board losing power, or out of memory?"
        )

    def _send(self, reply):
        """Send the objects that the board has not, which its reply names, then have the job done; return its reply."""
        patiently(self.board, lambda: self._send_once(reply))
        reply = patiently(self.board, self._run)
        if "missing" in reply:
            self.board.tell(f"{len(reply['missing'])} files came damaged: sending them again")
        return reply

    def _send_once(self, reply):
        needed = sum(self.sizes[digest] for digest in reply["missing"]) - reply["began"]
        if needed > reply["free"]:
            raise UserError(
                f"{self.board.name}: {reply['folder']} there has {reply['free'] / 1e6:.1f} MB free, and "
                f"{needed / 1e6:.1f} MB are to be sent: free some (docs/remote.md says what may be deleted)"
            )
        with tempfile.TemporaryDirectory() as staging:
            for digest in reply["missing"]:  # what is there in part is gone on with
                name = partial_name(digest, self.board.client)
                os.symlink(os.path.abspath(self.sources[digest]), os.path.join(staging, name))
            objects = self.board.at(f"{reply['folder']}/objects/")
            self.moved["sent"] += self.board.rsync("--recursive", "--copy-links", f"{staging}/", objects)

    def _run(self):
        known = {"sizes": self.sizes, "client": self.board.client, "token": self.token, "offset": self.offset}
        return self.board.ask("run", _Stream(self), job=self.described, **known)

    def _forget(self):
        return self.board.ask("forget", key=self.described["key"], client=self.board.client)

    def _fetch(self, reply):
        """Fetch what the job made to its `.partial`, and rename it all once it is right; return whether it was."""
        asked = {*self.described["outputs"], *self.described["records"], self.described["log"]}
        wanted = {path: digest for path, digest in reply["outputs"].items() if path in asked}
        if wanted:
            patiently(self.board, lambda: self._fetch_once(wanted, reply["back"]))
        wrong = [path for path, digest in wanted.items() if not _is(partial_of(path), digest)]
        for path in wrong:
            Path(partial_of(path)).unlink(missing_ok=True)
        if not wrong:
            provenance.take({partial_of(path): path for path in wanted})
        return not wrong

    def _fetch_once(self, wanted, folder):
        listed = [partial_of(path) for path in wanted]
        self.moved["received"] += self.board.rsync("--files-from=-", self.board.at(f"{folder}/"), "./", listed=listed)


class _Stream:
    """What a board writes while a job runs: a line that says where its log goes on, then the log."""

    START = re.compile(LOG.format(r"(\d+)").encode())

    def __init__(self, job):
        self.job, self.before = job, b""

    def __call__(self, block):
        if self.before is not None:
            self.before += block
            start = self.START.search(self.before)
            if start is None:
                return
            self._begin(int(start.group(1)))
            block, self.before = self.before[start.end() :], None
        self.job.offset += len(block)
        sys.stderr.buffer.write(block)
        sys.stderr.buffer.flush()

    def _begin(self, offset):
        if offset < self.job.offset:
            self.job.board.tell("the job was ended there without a status (loss of power?): it is done again")
        self.job.offset = offset


def _is(path, digest):
    return os.path.exists(path) and sha256_file(path) == digest


def _again(outputs):
    """Return the environment of a job whose timing is asked for again (retime.py), or nothing."""
    asked = [path for path in os.environ.get(RETIME, "").split(os.pathsep) if path in outputs]
    return {"environment": {RETIME: os.pathsep.join(asked)}} if asked else {}


def _log_of(argv):
    """Return the log file of a command line (command.py gives every command `--log`), or None."""
    return argv[argv.index("--log") + 1] if "--log" in argv else None


def parse(words):
    """Return (the arguments before the first `--`, the command line after it)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", type=json.loads, required=True, help="JSON")
    parser.add_argument("--inputs", nargs="*", default=[], help="files that the command line reads, its code included")
    parser.add_argument("--outputs", nargs="*", default=[], help="files that it writes")
    cut = words.index("--") if "--" in words else len(words)
    return parser.parse_args(words[:cut]), words[cut + 1 :]


def main():
    args, argv = parse(sys.argv[1:])
    held = command.hold(os.environ.get("LEVIT_JOBS"))
    try:
        job = Job(Board(args.board), args.inputs, args.outputs, argv)
        reply = job.do()
        job.board.tell(f"sent {job.moved['sent']:,} bytes, received {job.moved['received']:,}")
        _check(reply, job.board.name)
    except (UserError, OSError) as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit("interrupted: a job that the board has goes on there, and the same command finds it again")
    finally:
        if held:
            held.close()


def _check(reply, name):
    """Raise UserError where a job failed: its own log has said why, unless there was no room to say it."""
    if reply["exit"] and reply["free"] < FULL:
        raise UserError(
            f"{name}: {reply['free']} bytes are free there: free some (docs/remote.md says what may be deleted)"
        )
    if reply["exit"]:
        raise UserError(f"{name}: the command there ended with status {reply['exit']}")


if __name__ == "__main__":
    main()
