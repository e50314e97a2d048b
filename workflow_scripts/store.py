"""List, verify, prune or fill the content-keyed store (core/store.py, core/bucket.py).

    python workflow_scripts/store.py list | verify --sample 20 | prune --keep-gb 20 | upload

Without --store it is the store of config.yaml; there, `prune` is about the local tier alone. It also removes damaged
entries, and what killed jobs left in the store, in .cache/ and in results/.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from configuration import checks
from configuration.yaml_text import MAIN
from core import tiers
from core.bucket import Bucket
from core.files import DONE, ROWS, STAGED, UserError, one_line, partial_of
from core.store import NEW, Damaged, Entries, Store, Unreachable
from core.tiers import Tiers

OLD = "brought-*"  # the name of STAGED files in version 0.2
LEFT = (f"{NEW}*", f"{STAGED}*", OLD, f"*{partial_of('')}", f"*{ROWS}", f"*{DONE}")  # left by killed jobs
BELOW = (".cache", "results")  # folders besides the store that may hold leftovers
IDLE_S = 3600.0  # seconds without a write after which a file is a leftover
UPLOADS = 4  # entries that are uploaded at once
POLL_S = 0.5  # seconds between two looks at what is to be uploaded
WAIT_S = 60.0  # seconds that a run waits for its last uploads
QUIET_S = 0.2  # seconds between two looks whether a job still measures time


def show(store: Entries) -> None:
    """Print the bytes, the command and the key of each entry."""
    for entry in store.entries():
        print(f"{entry.size:>14,} {store.content(entry.key):<20} {entry.key}")


def verify(store: Entries, sample: int | None, remove: bool) -> int:
    """Read every byte of some entries or of all, print the damaged ones, and return how many these are."""
    keys = [entry.key for entry in store.entries()]
    keys = random.sample(keys, min(sample, len(keys))) if sample is not None else keys
    problems = {key: problem for key, problem in ((key, store.problem(key)) for key in keys) if problem}
    for key, problem in problems.items():
        print(f"{store.entry(key)}: {problem}")
        if remove and type(problem) is Damaged:
            store.remove(key)
    print(f"{store.name}: {len(keys)} entries were read, {len(problems)} of them are damaged or unreadable")
    return len(problems)


def prune(store: Entries, keep_gb: float) -> None:
    """Prune a store and remove leftovers, and print how many."""
    damaged = [entry.key for entry in store.entries() if isinstance(store, Store) and _is_damaged(store, entry.key)]
    for key in damaged:
        store.remove(key)
    waiting = [path.name for path in Path(store.name).glob(f"{tiers.PENDING}/*")]
    gone = {*damaged, *store.prune(keep_gb * 1e9, last=waiting)}
    kept = len(gone & {entry.key for entry in store.entries()})
    removed, left = (store.abort_uploads(), 0) if isinstance(store, Bucket) else _remove(leftovers(store.name))
    print(f"{store.name}: removed {len(gone) - kept} entries and {removed} leftovers of killed jobs")
    if kept + left:
        print(f"{kept + left} more could not be removed: another user owns them")


def _is_damaged(store, key):
    return type(store.damage(key)) is Damaged


def leftovers(root: str) -> list[Path]:
    """Return unfinished files of killed jobs, not written to for an hour, in a store and the working folder."""
    folders = map(Path, [root, *BELOW])
    paths = {path.resolve() for folder in folders for pattern in LEFT for path in folder.glob(f"**/{pattern}")}
    return sorted(path for path in paths if _idle_s(path) > IDLE_S)


def _idle_s(path):
    """Return the seconds since the last write to a file, or to anything in a folder; 0 if it no longer exists."""
    try:
        paths = [path, *path.rglob("*")] if path.is_dir() else [path]
        return time.time() - max(one.lstat().st_mtime for one in paths)
    except OSError:
        return 0.0


def _remove(paths):
    """Remove files and folders; return how many were removed, and how many could not be."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    left = sum(os.path.lexists(path) for path in paths)
    return len(paths) - left, left


class Uploads:
    """The uploads of what waits in a local tier, a bounded number at once, in threads."""

    def __init__(self, store: Tiers, wait: Callable[[], object] = bool) -> None:
        """wait: called before each entry, and each block that is sent to a bucket, to hold uploads up."""
        self.store, self.problem, self.wait = store, "", wait
        if isinstance(store.shared, Bucket):
            store.shared.wait = wait
        self.pool, self.under_way = ThreadPoolExecutor(UPLOADS), {}

    def step(self) -> bool:
        """Begin what waits and has not begun; return whether anything is left that can be done now."""
        waiting = [] if self.store.is_away() else self.store.waiting()
        self.under_way = {key: future for key, future in self.under_way.items() if not future.done()}
        for key in waiting:
            if key not in self.under_way:
                self.under_way[key] = self.pool.submit(self._upload, key)
        return bool(waiting or self.under_way)

    def _upload(self, key):
        try:
            self.wait()
            if not self.store.is_away():
                self.store.upload(key)
        except (Unreachable, OSError) as problem:
            self.problem = getattr(problem, "strerror", None) or str(problem)
            if self.store.note_away():
                print(f"warning: {self.store.complaint(self.problem)}", file=sys.stderr, flush=True)


def upload(store: Tiers) -> None:
    """Upload all that waits; raise UserError where the store cannot be reached."""
    store.forget_away()
    uploads, count = Uploads(store), len(store.waiting())
    while uploads.step():
        time.sleep(POLL_S)
    if store.waiting():
        raise UserError(f"{store.name}: {len(store.waiting())} of {count} entries are not uploaded: {uploads.problem}")
    print(f"{store.name}: {count} entries are uploaded")


def follow(store: Tiers, ended: threading.Event) -> None:
    """Upload what jobs keep until the run has ended, and what is left then, for a minute at most."""
    uploads = Uploads(store, _wait_for_timings)
    while not ended.wait(POLL_S):
        uploads.step()
    end = time.monotonic() + WAIT_S
    while uploads.step() and time.monotonic() < end:
        time.sleep(POLL_S)
    left = len(store.waiting())
    if left:
        print(f"{left} entries wait for {store.name}: the next run uploads them", file=sys.stderr, flush=True)
    os._exit(0)  # what is under way then is uploaded again


def _wait_for_timings():
    """Wait while a job of this run measures time."""
    path = os.environ.get("LEVIT_TIMING")
    while path and os.path.exists(path):
        with open(path, "a") as stream:
            try:
                return fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(QUIET_S)
    return None


def _end_of_stdin():
    """Return an event that is set when whoever started this process closes its pipe, or dies."""
    ended = threading.Event()

    def read():
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    return ended


def _gigabytes(text):
    """Return a size from the command line in gigabytes; raise UserError if it is invalid."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise UserError(f"--keep-gb {text} is not a size: give gigabytes, 0 or more")


def _opened(address):
    """Return the store of the command line, of a run's environment or of config.yaml; raise UserError."""
    if address is None and (tiers.STORE in os.environ or not os.path.isfile(MAIN)):
        store = tiers.default() or Store(tiers.LOCAL)
    elif address is None:
        keys = checks.read().store
        store = tiers.opened(keys) if keys else Store(tiers.LOCAL)
    else:
        store = tiers.at(address)
    if isinstance(store, Store) and not store.root.is_dir():
        raise UserError(f"--store {store.name}: no such folder")
    return store


def main() -> None:
    """List, verify, prune or fill a store, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["list", "verify", "prune", "upload"])
    parser.add_argument("--store", help="a folder or s3://bucket/prefix")
    parser.add_argument("--keep-gb", type=_gigabytes, default=20.0, help="prune: gigabytes that stay (20)")
    parser.add_argument("--sample", type=int, help="verify: how many entries, drawn at random (all)")
    parser.add_argument("--remove", action="store_true", help="verify: remove the damaged ones")
    parser.add_argument("--all", action="store_true", help="upload: all of the local tier")
    parser.add_argument("--follow", action="store_true", help="upload: until stdin ends, as a run does")
    args = parser.parse_args()
    store = _opened(args.store)
    try:
        sys.exit(_act(store, args))
    except Unreachable as problem:
        raise UserError(f"{store.name}: {problem}") from None


def _act(store, args):
    if args.action == "upload":
        if not isinstance(store, Tiers) or store.shared.read_only:
            raise UserError(f"{store.name} takes no uploads: config.yaml (store) names no bucket, or one to read only")
        for entry in store.local.entries() if args.all else ():
            store.note(entry.key)
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # what is under way is uploaded again
        return follow(store, _end_of_stdin()) if args.follow else upload(store)
    shared, local = (store.shared, store.local) if isinstance(store, Tiers) else (store, store)
    if (local if args.action == "prune" else shared).read_only and (args.remove or args.action == "prune"):
        raise UserError(f"{store.name} is only read (config.yaml, store.read_only): nothing is removed there")
    if args.action == "verify":
        return bool(verify(shared, args.sample, args.remove))
    return prune(local, args.keep_gb) if args.action == "prune" else show(shared)


if __name__ == "__main__":
    one_line(main)
