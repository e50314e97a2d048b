"""The content-keyed store: outputs of equal work are copied, not computed again.

An entry is a folder named by its key, a hash of the contents of the inputs, the parameters, the code and the versions
of tools (core/command.py). Entries are renamed into place once complete, and verified by hash when read: a damaged or
unreadable entry counts as absent. LEVIT_STORE names the folder (the Snakefile sets it from config.yaml). It may be
shared, modes follow the umask, and deleting it is safe.

    python workflow_scripts/store.py list | prune --keep-gb 20

`prune` also removes damaged entries, and files that killed jobs left in the store, in .cache/ and in results/.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import stat
import time
import uuid
from pathlib import Path

from core.files import DONE, ROWS, STAGED, UserError, partial_of, sha256_file, write_json

log = logging.getLogger("levit")

MANIFEST = "entry.json"
NEW = ".new-"  # prefix of an unfinished entry
LEFT = (
    f"{NEW}*",
    f"{STAGED}*",
    "brought-*",
    f"*{partial_of('')}",
    f"*{ROWS}",
    f"*{DONE}",
)  # left by killed jobs; version 0.2 named them brought-*
BELOW = (".cache", "results")  # folders besides the store that may hold leftovers
IDLE_S = 3600.0  # seconds without a write after which a file is a leftover
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # another job has stored the key first
FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(Exception):
    """An entry differs from what was stored."""


class Unreadable(Damaged):
    """This user cannot read an entry now; it may serve others."""


class Store:
    """Artifacts by key under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @classmethod
    def default(cls) -> Store | None:
        """Return the store in LEVIT_STORE, or None if that is empty or unset."""
        root = os.environ.get("LEVIT_STORE")
        return cls(root) if root else None

    def entry(self, key: str) -> Path:
        """Return the folder of an entry."""
        return self.root / key[:2] / key

    def fetch(self, key: str, outputs: dict[str, str]) -> dict | None:
        """Copy an entry's files to `outputs` ({name: path}) and return its manifest, or None without an entry.

        An entry that is damaged (missing file, other hash) or unreadable counts as absent with a warning, and a
        damaged one is removed. Raise OSError if an output cannot be written.
        """
        folder, partials = self.entry(key), {name: partial_of(path) for name, path in outputs.items()}
        try:
            entry = manifest(folder)
            if entry is None:
                return None
            for name, path in partials.items():
                _copy_verified(folder / name, path, entry["outputs"].get(name))
            for name, path in partials.items():
                os.replace(path, outputs[name])
        except Damaged as problem:
            log.warning("the store's entry %s counts as absent: %s", folder, problem)
            if not isinstance(problem, Unreadable):
                shutil.rmtree(folder, ignore_errors=True)
            return None
        finally:
            for path in partials.values():
                with contextlib.suppress(OSError):
                    os.unlink(path)
        with contextlib.suppress(OSError):
            os.utime(folder)
        return entry

    def keep(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Put outputs ({name: path}) into the store as `put` does; log a warning if it cannot be written."""
        try:
            self.put(key, outputs, parts)
        except OSError as error:
            remedy = "prune it (python workflow_scripts/store.py prune), or " if error.errno in FULL else ""
            log.warning(
                "nothing is stored: %s: %s; %sname another folder in config.yaml (store)",
                *(self.root, error.strerror or error, remedy),
            )

    def put(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Store the files `outputs` ({name: path}) under `key`, a hash of `parts`, which are recorded."""
        folder = self.entry(key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.parent / f"{NEW}{uuid.uuid4().hex}"
        beside.mkdir()
        try:
            for name, path in outputs.items():
                _link(path, beside / name)
            hashes = {name: sha256_file(beside / name) for name in outputs}
            write_json(beside / MANIFEST, {"outputs": hashes, "parts": parts})
            try:
                os.rename(beside, folder)
            except OSError as error:
                if error.errno not in TAKEN:
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def entries(self) -> list[tuple[float, int, Path]]:
        """Return (last use, bytes, folder) of each readable entry, the least recently used first."""
        entries = []
        for folder in self._folders():
            with contextlib.suppress(OSError):  # another process may remove it meanwhile
                entries.append((folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir()), folder))
        return sorted(entries)

    def _folders(self):
        return sorted(path for path in self.root.glob("??/*") if not path.name.startswith("."))

    def prune(self, keep_bytes: float) -> tuple[int, int]:
        """Remove damaged entries, then the least recently used ones until at most `keep_bytes` are left.

        Return how many entries were removed, and how many could not be: another user owns them.
        """
        damaged = self.damaged()
        whole = [(size, folder) for _, size, folder in self.entries() if folder not in damaged]
        total, removed = sum(size for size, _ in whole), list(damaged)
        for size, folder in whole:
            if total <= keep_bytes:
                break
            total -= size
            removed.append(folder)
        return _remove(removed)

    def damaged(self) -> list[Path]:
        """Return the folders of damaged entries, without those that this user cannot read."""
        return [folder for folder in self._folders() if type(_problem(folder)) is Damaged]

    def leftovers(self) -> list[Path]:
        """Return unfinished files of killed jobs, not written to for an hour, in the store and the working folder."""
        folders = [self.root, *map(Path, BELOW)]
        paths = {path.resolve() for folder in folders for pattern in LEFT for path in folder.glob(f"**/{pattern}")}
        return sorted(path for path in paths if _idle_s(path) > IDLE_S)


def manifest(folder: Path) -> dict | None:
    """Return the manifest of an entry, or None if there is no entry; raise Damaged for an invalid one."""
    try:
        with _opened(folder / MANIFEST) as stream:
            recorded = json.loads(stream.read().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(f"{MANIFEST}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{MANIFEST}: {error}") from None
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(k), dict) for k in ("outputs", "parts")):
        raise Damaged(f"{MANIFEST} is not a record of an entry")
    return recorded


def _opened(path):
    """Open a file to read its bytes; raise Damaged if it is not a regular file: reading a pipe would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Damaged(f"{path.name} is not a file")
    return open(path, "rb")


def _copy_verified(source, path, wanted):
    """Copy an entry's file; raise Damaged if its bytes are not those that were stored, or unreadable."""
    digest = hashlib.sha256()
    try:
        stream = _opened(source)
    except FileNotFoundError:
        raise Damaged(f"{source.name} is missing") from None
    except OSError as error:
        raise Unreadable(f"{source.name}: {error.strerror}") from None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with stream, open(path, "wb") as copy:
        for block in iter(lambda: _block(stream), b""):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != wanted:
        raise Damaged(f"{source.name} has another SHA-256 than its record")


def _block(stream):
    try:
        return stream.read(1 << 20)
    except OSError as error:
        raise Unreadable(f"{Path(stream.name).name}: {error.strerror}") from None


def _link(path, entry):
    """Hard-link a finished file into an entry, or copy it if the store is on another disk."""
    try:
        os.link(path, entry)
    except OSError:
        shutil.copyfile(path, entry)


def _problem(folder):
    """Return what is wrong with an entry, as a Damaged, or None; only `fetch` checks hashes."""
    try:
        recorded = manifest(folder)
        missing = [name for name in recorded["outputs"] if not (folder / name).is_file()] if recorded else [MANIFEST]
    except Damaged as problem:
        return problem
    except OSError as error:
        return Unreadable(error.strerror)
    return Damaged(f"{missing[0]} is missing") if missing else None


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


def _gigabytes(text):
    """Return a size from the command line in gigabytes; raise UserError if it is invalid."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise UserError(f"--keep-gb {text} is not a size: give gigabytes, 0 or more")


def prune(store: Store, keep_gb: float) -> None:
    """Prune a store and remove leftovers, and print how many."""
    removed, kept = store.prune(keep_gb * 1e9)
    leftovers, left = _remove(store.leftovers())
    print(f"{store.root}: removed {removed} entries and {leftovers} leftovers of killed jobs")
    if kept + left:
        print(f"{kept + left} more could not be removed: another user owns them")


def show(store: Store) -> None:
    """Print the bytes, the command and the key of each entry."""
    for _, size, folder in store.entries():
        problem = _problem(folder)
        entry = None if problem else manifest(folder)
        content = entry["parts"].get("command", "?") if entry else f"damaged: {problem}"
        print(f"{size:>14,} {content!s:<20} {folder.name}")


def main() -> None:
    """List or prune a store, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--store", default=os.environ.get("LEVIT_STORE", ".cache/store"))
    parser.add_argument("--keep-gb", type=_gigabytes, default=20.0)
    args = parser.parse_args()
    if not os.path.isdir(args.store):
        raise UserError(f"--store {args.store}: no such folder")
    store = Store(args.store)
    prune(store, args.keep_gb) if args.action == "prune" else show(store)
