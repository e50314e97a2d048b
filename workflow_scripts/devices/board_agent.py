"""What a host has a board do: one request a call, given to the board's interpreter with this text (run_on_board.py).

Nothing is installed on the board and nothing of this stays running there but a job's own process. In the work folder:

    objects/{sha256}     files by content: inputs, code, outputs; sent or made once
    jobs/{key}/          a running or finished job: work/ has links to objects, log its output, exit.{n} its end
    back/                links to what hosts are fetching
    store/, timing/      finished builds by content, kernel timings
    benchmarks/          kept timings of engines

Times of files decide nothing, so clocks may differ. Standard library only, Python 3.8.
"""

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

REPLY = "levit-reply: "  # what a reply on stderr begins with
LOG = "levit-log from byte {}\n"  # what a job's log on stdout begins with
BOARD_LOCK = "levit-board.lock"  # in the board's temporary folder: one job at a time, whoever sent it
POLL = 0.05  # seconds between two looks at a job's log
LIVENESS = 20  # looks between two that ask whether its process is there


def sha256_file(path):
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def link(source, path):
    """Give a file a second name, or a copy on a file system without links."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def flush(path):
    """Let a file or folder survive a loss of power."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def free():
    return shutil.disk_usage(".").free


# Requests: each a function of its parameters that returns a JSON value; the current folder is the work folder


def look(sources, row, purposes):
    """Say what this board is to a row of `targets`, asking devices/probe.py, whose text comes along.

    Returns {"reason": why it cannot `build` or `run` its engines, or None, "purpose": which of them, "identity"}.
    """
    if shutil.which("rsync") is None:
        return {"problem": "rsync is not installed there: sudo apt-get install rsync"}
    for name, text in sources.items():
        package = name.rpartition(".")[0]
        sys.modules.setdefault(package, types.ModuleType(package))
        sys.modules[name] = types.ModuleType(name)
        exec(compile(text, name + ".py", "exec"), sys.modules[name].__dict__)
    probe = sys.modules["devices.probe"]
    for purpose in purposes:
        reason = probe.unreachable(row, purpose)
        if reason:
            break
    return {"reason": reason, "purpose": purpose, "identity": probe.identity(row)}


def partial_name(digest, client):
    return f"{digest}.{client}.partial"


def run(job, sizes, client, token, offset):
    """Start a job, or find it again, and follow its log from a byte on; say how it ended.

    job: {"key", "argv", "files": {path: sha256}, "outputs": [path], "records": [path that may be written beside one],
    "log": path or None, "environment"?: {name: text}}; sizes: {sha256: bytes}. A job is found by its key; one that
    failed is done again for another token. Returns {"missing": [sha256], "began": bytes of those, "free": bytes,
    "folder"} where files are not here, {"exit": None} for a job that was ended without a status, else {"exit", "free",
    "outputs": {path: sha256}, "back": folder}.
    """
    folder = f"jobs/{job['key']}"
    missing, is_new = begin(folder, job, sizes, client, token)
    if missing:
        partials = [f"objects/{partial_name(digest, client)}" for digest in missing]
        began = sum(os.path.getsize(path) for path in partials if os.path.exists(path))
        return {"missing": missing, "began": began, "free": free(), "folder": os.getcwd()}
    follow(folder, 0 if is_new else offset)
    code = exit_of(folder)
    return {"exit": None} if code is None else {"exit": code, "free": free(), **give(folder, job, client, code)}


def forget(key, client):
    """Remove a job whose outputs were fetched, unless it runs again."""
    shutil.rmtree(back_folder(key, client), ignore_errors=True)
    with critical():
        lock = taken(f"jobs/{key}/lock")
        if lock:
            shutil.rmtree(f"jobs/{key}")
    return {}


# A job


@contextlib.contextmanager
def critical():
    """Keep short changes of jobs/ apart."""
    with open("lock", "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def taken(path):
    """Return the open file of a lock that nobody held, else None."""
    try:
        stream = open(path, "a")  # noqa: SIM115 (held as long as it is open)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.close()
        return None
    return stream


def exit_of(folder):
    """Return the exit status of a job that ended, or None."""
    found = glob.glob(f"{folder}/exit.*")
    return int(found[0].rsplit(".", 1)[1]) if found else None


def begin(folder, job, sizes, client, token):
    """Start a job that neither runs nor is done; return the sha256 of files that it lacks, and whether it started."""
    with critical():
        os.makedirs(folder, exist_ok=True)
        lock = taken(f"{folder}/lock")
        if lock is None or exit_of(folder) == 0 or (exit_of(folder) is not None and token_of(folder) == token):
            return [], False
        missing = [digest for digest, size in sizes.items() if not take(digest, size, client)]
        if not missing:
            lay(folder, job, token)
            detach(folder, job, lock)
        return missing, not missing


def token_of(folder):
    with contextlib.suppress(OSError), open(f"{folder}/token") as stream:
        return stream.read()


def take(digest, size, client):
    """Return whether an object is here; what was sent gets its name if its bytes are right, or is removed."""
    path, partial = f"objects/{digest}", f"objects/{partial_name(digest, client)}"
    if os.path.exists(path):
        return True
    if not os.path.exists(partial) or os.path.getsize(partial) < size:
        return False
    if sha256_file(partial) != digest:
        os.unlink(partial)
        return False
    flush(partial)
    os.replace(partial, path)
    flush("objects")
    return True


def lay(folder, job, token):
    """Make a job's folder anew, with its files as links."""
    for name in os.listdir(folder):
        if name != "lock":
            path = f"{folder}/{name}"
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    for path, digest in job["files"].items():
        link(f"objects/{digest}", f"{folder}/work/{path}")
    for path in job["outputs"]:
        os.makedirs(os.path.dirname(f"{folder}/work/{path}"), exist_ok=True)
    for name, text in (("token", token), ("log", ""), ("running", "")):
        with open(f"{folder}/{name}", "w") as stream:
            stream.write(text)


def detach(folder, job, lock):
    """Start a job's process, which outlives this one and holds the job's lock."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        status = work(folder, job, lock) if os.fork() == 0 else 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def work(folder, job, lock):
    """Do a job when the board is free, and leave its exit status as a file's name: that needs no space."""
    with open(os.devnull) as nothing, open(f"{folder}/log", "ab", buffering=0) as log:
        for stream, number in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(stream.fileno(), number)
    os.closerange(3, lock.fileno())  # not the lock of jobs/, nor the connection
    os.closerange(lock.fileno() + 1, 256)
    alone = board_lock()
    folders = {"LEVIT_STORE": "store", "LEVIT_TIMING_CACHES": "timing", "LEVIT_BENCHMARKS": "benchmarks"}
    kept = {**{name: os.path.abspath(path) for name, path in folders.items()}, **job.get("environment", {})}
    held = (lock.fileno(), alone)  # the job's own process keeps them where this one is killed
    command = [sys.executable, *job["argv"]]
    code = subprocess.run(command, cwd=f"{folder}/work", env={**os.environ, **kept}, pass_fds=held).returncode
    if code == 0:
        made = [f"{folder}/work/{path}" for path in [*job["outputs"], *job["records"]]]
        for path in filter(os.path.exists, made):
            flush(path)
            flush(os.path.dirname(path))
    os.rename(f"{folder}/running", f"{folder}/exit.{code if code >= 0 else 128 - code}")
    flush(folder)
    return 0


def board_lock():
    """Return a descriptor that holds the board's lock, once no other job does."""
    path = os.path.join(tempfile.gettempdir(), BOARD_LOCK)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        os.chmod(path, 0o666)
    number = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(2, b"another job is at work on this board: waiting for it\n")
        fcntl.flock(number, fcntl.LOCK_EX)
    return number


def follow(folder, offset):
    """Write a job's log to stdout from a byte on, until the job has ended."""
    os.write(1, LOG.format(offset).encode())
    with open(f"{folder}/log", "rb") as log:
        log.seek(offset)
        for look in itertools.count():
            ended = exit_of(folder) is not None or (look % LIVENESS == 0 and not is_running(folder))
            for block in iter(lambda: log.read(1 << 16), b""):
                os.write(1, block)
            if ended:
                return
            time.sleep(POLL)


def is_running(folder):
    with critical():
        lock = taken(f"{folder}/lock")
        if lock:
            lock.close()
        return lock is None


def back_folder(key, client):
    return f"back/{key}-{client}"


def give(folder, job, client, code):
    """Lay out what a job wrote under the names that the host fetches it by; outputs are objects from now on."""
    back = back_folder(job["key"], client)
    shutil.rmtree(back, ignore_errors=True)
    made = {}
    lacking = [path for path in job["outputs"] if not os.path.exists(f"{folder}/work/{path}")]
    if lacking and code == 0:
        return {"outputs": {}, "problem": f"the job ended well and did not write {lacking[0]}"}
    records = [path for path in job["records"] if os.path.exists(f"{folder}/work/{path}")]
    for path in [*job["outputs"], *records] if code == 0 else []:
        digest = made[path] = sha256_file(f"{folder}/work/{path}")
        if not os.path.exists(f"objects/{digest}"):
            link(f"{folder}/work/{path}", f"objects/{digest}")
    logs = [job["log"]] if job["log"] and os.path.exists(f"{folder}/work/{job['log']}") else []
    made.update({path: sha256_file(f"{folder}/work/{path}") for path in logs})
    for path in made:
        link(f"{folder}/work/{path}", f"{back}/{path}.partial")
    return {"outputs": made, "back": os.path.abspath(back)}


def main(request):
    """Do one request: {"do": a function above, "folder", and its parameters}; reply with a line on stderr."""
    folder, function = os.path.expanduser(request.pop("folder")), request.pop("do")
    try:
        for name in ("objects", "jobs", "back"):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        os.chdir(folder)
        reply = globals()[function](**request)
    except OSError as error:
        reply = {"problem": f"{error.filename or folder} on the board: {error.strerror}"}
    sys.stderr.write(f"\n{REPLY}{json.dumps(reply)}\n")
