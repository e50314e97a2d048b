"""The board's side of a job over ssh: a host sends this text to the board's interpreter with one request a call.

Nothing is installed on the board, and nothing but a job's own process stays running there. In the work folder:

    objects/{sha256}     files by content: inputs, code, outputs; each is sent or written once
    jobs/{key}/          a running or finished job: work/ links to objects, log is its output, exit.{n} its status
    back/{key}-{client}/ links to outputs that a host is fetching
    store/, timing/      finished builds by content, kernel timings
    benchmarks/          kept timings of engines

File times decide nothing, so clocks may differ.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import types
from typing import IO, Iterator

REPLY = "levit-reply: "  # starts a reply on stderr
LOG = "levit-log from byte {}\n"  # precedes a job's log on stdout
BOARD_LOCK = "levit-board.lock"  # in the board's temporary folder: one job at a time, whoever sent it
POLL = 0.05  # seconds between two reads of a job's log
LIVENESS = 20  # reads between two checks that its process is alive


def sha256_file(path: str) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def link(source: str, path: str) -> None:
    """Give a file a second name, or a copy on a file system without links."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def fsync(path: str) -> None:
    """Write a file or folder to the disk, so that it survives a loss of power."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


# Requests: functions of JSON parameters that return a JSON value; the current folder is the work folder


def load(sources: dict) -> None:
    """Load modules from their texts; sources: {dotted name: text}, imported modules first."""
    for name, text in sources.items():
        package = name.rpartition(".")[0]
        sys.modules.setdefault(package, types.ModuleType(package))
        sys.modules[name] = types.ModuleType(name)
        exec(compile(text, name + ".py", "exec"), sys.modules[name].__dict__)


def examine(sources: dict, rows: dict, pins: dict) -> dict:
    """Return what measure/checkup.py, whose text is among the sources, finds on this board as the target of rows."""
    load(sources)
    return sys.modules["measure.checkup"].examine(rows, pins, is_remote=True, is_asked=True)


def survey(sources: dict, row: dict, purposes: list) -> dict:
    """Return what this board is to a row of `targets`, by devices/probe.py, whose text is among the sources.

    Returns {"reason": why the board cannot `build` or `run` the target's engines, or None, "purpose": which of them,
    "identity", "state": what else makes timings differ, where measure/meters.py is among the sources}.
    """
    if shutil.which("rsync") is None:
        return {"problem": "rsync is not installed there: sudo apt-get install rsync"}
    load(sources)
    probe = sys.modules["devices.probe"]
    reasons = {purpose: probe.unreachable(row, purpose) for purpose in purposes}
    purpose = next((each for each in purposes if reasons[each]), purposes[-1])
    state = sys.modules["measure.meters"].facts(row) if "measure.meters" in sources else None
    return {"reason": reasons[purpose], "purpose": purpose, "identity": probe.identity(row), "state": state}


def partial_name(digest: str, client: str) -> str:
    """Return the name of an object that a host is sending."""
    return f"{digest}.{client}.partial"


def run(job: dict, sizes: dict, client: str, token: str, offset: int) -> dict:
    """Start a job, or attach to it, and stream its log from a byte offset; return how it ended.

    job: {"key", "argv", "files": {path: sha256}, "outputs": [path], "records": [optional path], "log": path or None,
    "environment"?: {name: text}}; sizes: {sha256: bytes}. The key identifies the job; a failed one runs again for a new
    token. Returns {"missing": [sha256], "began": bytes of them that are here, "free": bytes, "folder"} where objects
    are missing, {"exit": None} for a job that died without a status, else {"exit", "free", "outputs": {path: sha256},
    "back": folder}.
    """
    folder = f"jobs/{job['key']}"
    missing, is_new = start(folder, job, sizes, client, token)
    if missing:
        partials = [f"objects/{partial_name(digest, client)}" for digest in missing]
        began = sum(os.path.getsize(path) for path in partials if os.path.exists(path))
        return {"missing": missing, "began": began, "free": shutil.disk_usage(".").free, "folder": os.getcwd()}
    stream_log(folder, 0 if is_new else offset)
    status = exit_of(folder)
    if status is None:
        return {"exit": None}
    return {"exit": status, "free": shutil.disk_usage(".").free, **publish(folder, job, client, status)}


def look(key: str, sizes: dict) -> dict:
    """Return {"has_job": at work or done here, "is_busy": the board, "missing": bytes}; sizes: {sha256: bytes}."""
    folder = f"jobs/{key}"
    has_job = os.path.isdir(folder) and (exit_of(folder) == 0 or is_running(folder))
    missing = sum(size for digest, size in sizes.items() if not os.path.exists(f"objects/{digest}"))
    return {"has_job": has_job, "is_busy": is_busy(), "missing": missing}


def forget(key: str, client: str) -> dict:
    """Remove a job whose outputs were fetched, unless it is running again."""
    shutil.rmtree(f"back/{key}-{client}", ignore_errors=True)
    with jobs_lock():
        lock = try_lock(f"jobs/{key}/lock")
        if lock:
            shutil.rmtree(f"jobs/{key}")
    return {}


@contextlib.contextmanager
def jobs_lock() -> Iterator[None]:
    """Serialize short changes of jobs/."""
    with open("lock", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def try_lock(path: str) -> IO | None:
    """Return the open file of a lock that was free and is now held, else None."""
    with contextlib.suppress(FileNotFoundError):
        stream = open(path, "a")  # noqa: SIM115 (the lock is held while it is open)
        if takes(stream.fileno()):
            return stream
        stream.close()
    return None


def takes(number: int) -> bool:
    """Lock the file of a descriptor and return True, or return False where another holds its lock."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def exit_of(folder: str) -> int | None:
    """Return the exit status of a job that ended, or None."""
    names = glob.glob(f"{folder}/exit.*")
    return int(names[0].rsplit(".", 1)[1]) if names else None


def start(folder: str, job: dict, sizes: dict, client: str, token: str) -> tuple:
    """Start a job that is neither running nor done; return ([sha256 of a missing object], whether it started)."""
    with jobs_lock():
        os.makedirs(folder, exist_ok=True)
        lock, status = try_lock(f"{folder}/lock"), exit_of(folder)
        if lock is None or status == 0 or (status is not None and token_of(folder) == token):
            return [], False
        missing = [digest for digest, size in sizes.items() if not accept(digest, size, client)]
        if not missing:
            prepare(folder, job, token)
            spawn(folder, job, lock)
        return missing, not missing


def token_of(folder: str) -> str | None:
    """Return the token that a job was started with, or None."""
    with contextlib.suppress(OSError), open(f"{folder}/token") as stream:
        return stream.read()
    return None


def accept(digest: str, size: int, client: str) -> bool:
    """Return whether an object is here; a complete transfer gets its name where its hash is right, else is removed."""
    path, partial = f"objects/{digest}", f"objects/{partial_name(digest, client)}"
    if os.path.exists(path):
        return True
    if not os.path.exists(partial) or os.path.getsize(partial) < size:
        return False
    if sha256_file(partial) != digest:
        os.unlink(partial)
        return False
    fsync(partial)
    os.replace(partial, path)
    fsync("objects")
    return True


def prepare(folder: str, job: dict, token: str) -> None:
    """Empty a job's folder and link its files into it."""
    for entry in os.scandir(folder):
        if entry.name != "lock":
            shutil.rmtree(entry.path) if entry.is_dir() else os.unlink(entry.path)
    for path, digest in job["files"].items():
        link(f"objects/{digest}", f"{folder}/work/{path}")
    for path in job["outputs"]:
        os.makedirs(os.path.dirname(f"{folder}/work/{path}"), exist_ok=True)
    for name, text in (("token", token), ("log", ""), ("running", "")):
        with open(f"{folder}/{name}", "w") as stream:
            stream.write(text)


def spawn(folder: str, job: dict, lock: IO) -> None:
    """Start a job's process, which outlives this one and holds the job's lock."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        status = execute(folder, job, lock) if os.fork() == 0 else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def execute(folder: str, job: dict, lock: IO) -> int:
    """Run a job once the board is free, and record its exit status in a file's name, which needs no disk space."""
    with open(os.devnull) as empty, open(f"{folder}/log", "ab", buffering=0) as log:
        for stream, number in ((empty, 0), (log, 1), (log, 2)):
            os.dup2(stream.fileno(), number)
    os.closerange(3, lock.fileno())  # neither the lock of jobs/ nor the connection
    os.closerange(lock.fileno() + 1, 256)
    locks = (lock.fileno(), board_lock())  # inherited: the job's own process holds them where this one is killed
    folders = {"LEVIT_STORE": "store", "LEVIT_TIMING_CACHES": "timing", "LEVIT_BENCHMARKS": "benchmarks"}
    variables = {**{name: os.path.abspath(path) for name, path in folders.items()}, **job.get("environment", {})}
    command, environment = [sys.executable, *job["argv"]], {**os.environ, **variables}
    code = subprocess.run(command, cwd=f"{folder}/work", env=environment, pass_fds=locks).returncode
    if code == 0:
        written = [f"{folder}/work/{path}" for path in [*job["outputs"], *job["records"]]]
        for path in filter(os.path.exists, written):
            fsync(path)
            fsync(os.path.dirname(path))
    os.rename(f"{folder}/running", f"{folder}/exit.{code if code >= 0 else 128 - code}")
    fsync(folder)
    return 0


def board_lock() -> int:
    """Wait until no other job holds the board's lock; return a file descriptor that holds it."""
    number = open_board_lock()
    if not takes(number):
        os.write(2, b"another job is running on this board: waiting for it\n")
        fcntl.flock(number, fcntl.LOCK_EX)
    return number


def open_board_lock() -> int:
    """Return a file descriptor of the board's lock, which nobody owns."""
    path = os.path.join(tempfile.gettempdir(), BOARD_LOCK)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        os.chmod(path, 0o666)
    return os.open(path, os.O_RDONLY)


def is_busy() -> bool:
    """Return whether a job holds the board's lock."""
    number = open_board_lock()
    try:
        return not takes(number)
    finally:
        os.close(number)


def stream_log(folder: str, offset: int) -> None:
    """Copy a job's log to stdout from a byte offset until the job has ended."""
    os.write(1, LOG.format(offset).encode())
    with open(f"{folder}/log", "rb") as log:
        log.seek(offset)
        for count in itertools.count():
            ended = exit_of(folder) is not None or (count % LIVENESS == 0 and not is_running(folder))
            for block in iter(lambda: log.read(1 << 16), b""):
                os.write(1, block)
            if ended:
                return
            time.sleep(POLL)


def is_running(folder: str) -> bool:
    """Return whether some process holds a job's lock."""
    with jobs_lock():
        lock = try_lock(f"{folder}/lock")
        if lock:
            lock.close()
        return lock is None


def publish(folder: str, job: dict, client: str, status: int) -> dict:
    """Link a job's outputs, records and log under the names that the host fetches; outputs become objects as well."""
    back = f"back/{job['key']}-{client}"
    shutil.rmtree(back, ignore_errors=True)
    for path in job["outputs"] if status == 0 else ():
        if not os.path.exists(f"{folder}/work/{path}"):
            return {"outputs": {}, "problem": f"the job ended with status 0 and did not write {path}"}
    names = [*job["outputs"], *job["records"]] if status == 0 else []
    names = [path for path in [*names, *filter(None, [job["log"]])] if os.path.exists(f"{folder}/work/{path}")]
    digests = {path: sha256_file(f"{folder}/work/{path}") for path in names}
    for path, digest in digests.items():
        if path != job["log"] and not os.path.exists(f"objects/{digest}"):
            link(f"{folder}/work/{path}", f"objects/{digest}")
        link(f"{folder}/work/{path}", f"{back}/{path}.partial")
    return {"outputs": digests, "back": os.path.abspath(back)}


def main(request: dict) -> None:
    """Serve one request, {"do": a function above, "folder", its parameters}; the reply is a line on stderr."""
    folder, function = os.path.expanduser(request.pop("folder")), request.pop("do")
    try:
        for name in ("objects", "jobs", "back"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        os.chdir(folder)
        reply = globals()[function](**request)
    except OSError as error:
        reply = {"problem": f"{error.filename or folder} on the board: {error.strerror}"}
    sys.stderr.write(f"\n{REPLY}{json.dumps(reply)}\n")
