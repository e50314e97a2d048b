"""The content-keyed store: work that was done once is copied, not repeated.

An entry is a folder named by its key; the key covers the contents of the inputs, the canonical parameters, the code
and the tool versions (command.py makes it). Entries are written beside and renamed, and verified by hash when read: one
that is damaged, or that may not be read, counts as absent. The folder comes from LEVIT_STORE (set by the Snakefile from
config.yaml) and may be shared, files and folders have the modes that the umask gives; deleting it is safe.

    python workflow_scripts/store.py list | prune --keep-gb 20

`prune` also removes damaged entries, and what killed jobs left in the store, in .cache/ and in results/.
"""

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

from core.files import UserError, partial_of, sha256_file, write_json

log = logging.getLogger("levit")

MANIFEST = "entry.json"
NEW = ".new-"  # prefix of an entry that is being written
LEFT = (f"{NEW}*", "brought-*", f"*{partial_of('')}")  # names of what a killed job may leave behind
BELOW = (".cache", "results")  # folders besides the store where that may be
IDLE_S = 3600.0  # seconds after which what nobody has written to is a leftover
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # another job has stored the same key first
FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(Exception):
    """An entry that is not what was stored."""


class Unreadable(Damaged):
    """An entry that cannot be read here, by this user, now: it may serve others."""


class Store:
    """Artifacts by key under one folder."""

    def __init__(self, root):
        self.root = Path(root)

    @classmethod
    def default(cls):
        """Return the store that the environment names, or None where LEVIT_STORE is empty or unset."""
        root = os.environ.get("LEVIT_STORE")
        return cls(root) if root else None

    def entry(self, key):
        return self.root / key[:2] / key

    def fetch(self, key, outputs):
        """Copy an entry's files to `outputs` ({name: path}) and return its manifest; return None where there is none.

        An entry that is damaged (missing file, other hash) or unreadable counts as absent and is named; a damaged one
        is removed as well. Raise OSError where an output cannot be written.
        """
        folder, partials = self.entry(key), {name: partial_of(path) for name, path in outputs.items()}
        try:
            kept = manifest(folder)
            if kept is None:
                return None
            for name, path in partials.items():
                _copy_verified(folder / name, path, kept["outputs"].get(name))
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
        return kept

    def keep(self, key, outputs, parts):
        """Put finished work into the store; a store that takes nothing costs a warning, never the work."""
        try:
            self.put(key, outputs, parts)
        except OSError as error:
            remedy = "prune it (python workflow_scripts/store.py prune), or " if error.errno in FULL else ""
            log.warning(
                "the store kept nothing: %s: %s; %sname another folder in config.yaml (store)",
                *(self.root, error.strerror or error, remedy),
            )

    def put(self, key, outputs, parts):
        """Keep the files `outputs` ({name: path}) under `key`; `parts` records what the key was made of."""
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

    def entries(self):
        """Return (last use, bytes, folder) of each entry that can be seen, the least recently used first."""
        found = []
        for folder in self._folders():
            with contextlib.suppress(OSError):  # it may go while it is looked at
                found.append((folder.stat().st_mtime, sum(path.stat().st_size for path in folder.iterdir()), folder))
        return sorted(found)

    def _folders(self):
        return sorted(path for path in self.root.glob("??/*") if not path.name.startswith("."))

    def prune(self, keep_bytes):
        """Remove damaged entries, then the least recently used ones until at most `keep_bytes` are left.

        Return (how many went, how many could not go: another user's).
        """
        damaged = self.damaged()
        whole = [(size, folder) for _, size, folder in self.entries() if folder not in damaged]
        total, going = sum(size for size, _ in whole), list(damaged)
        for size, folder in whole:
            if total <= keep_bytes:
                break
            total -= size
            going.append(folder)
        return _remove(going)

    def damaged(self):
        """Return the folders that hold no whole entry, less those that cannot be read here."""
        return [folder for folder in self._folders() if type(_problem(folder)) is Damaged]

    def leftovers(self):
        """Return what killed jobs left in the store and in this folder: unfinished, and not written for an hour."""
        places = [self.root, *map(Path, BELOW)]
        found = {path.resolve() for place in places for pattern in LEFT for path in place.glob(f"**/{pattern}")}
        return sorted(path for path in found if _idle_s(path) > IDLE_S)


def manifest(folder):
    """Return the record of an entry, or None where there is no entry; raise Damaged where it is none of ours."""
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
        raise Damaged(f"{MANIFEST} is no record of an entry")
    return recorded


def _opened(path):
    """Open a regular file to read its bytes; a pipe of that name would never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Damaged(f"{path.name} is no file")
    return open(path, "rb")


def _copy_verified(source, path, wanted):
    """Copy an entry's file; raise Damaged where its bytes are not those that were stored, or cannot be read."""
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
    """Give a finished file, which nobody writes again, a second name; copy it where the store is another disk."""
    try:
        os.link(path, entry)
    except OSError:
        shutil.copyfile(path, entry)


def _problem(folder):
    """Return what is wrong with an entry, a Damaged, or None; hashes are only looked at when one is fetched."""
    try:
        recorded = manifest(folder)
        missing = [name for name in recorded["outputs"] if not (folder / name).is_file()] if recorded else [MANIFEST]
    except Damaged as problem:
        return problem
    except OSError as error:
        return Unreadable(error.strerror)
    return Damaged(f"{missing[0]} is missing") if missing else None


def _idle_s(path):
    """Return the seconds since a file, or anything in a folder, was last written; 0 where it has just gone."""
    try:
        several = [path, *path.rglob("*")] if path.is_dir() else [path]
        return time.time() - max(one.lstat().st_mtime for one in several)
    except OSError:
        return 0.0


def _remove(paths):
    """Remove files and folders; return (how many went, how many could not)."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    left = sum(os.path.lexists(path) for path in paths)
    return len(paths) - left, left


def _gigabytes(text):
    """Return a size given on the command line; raise UserError where it is none."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise UserError(f"--keep-gb {text} is no size: give gigabytes, 0 or more")


def prune(store, keep_gb):
    removed, kept = store.prune(keep_gb * 1e9)
    gone, left = _remove(store.leftovers())
    print(f"{store.root}: removed {removed} entries and {gone} leftovers of killed jobs")
    if kept + left:
        print(f"{kept + left} more could not be removed: they are another user's")


def show(store):
    for _, size, folder in store.entries():
        problem = _problem(folder)
        what = f"damaged: {problem}" if problem else manifest(folder)["parts"].get("command", "?")
        print(f"{size:>14,} {what!s:<20} {folder.name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--store", default=os.environ.get("LEVIT_STORE", ".cache/store"))
    parser.add_argument("--keep-gb", type=_gigabytes, default=20.0)
    args = parser.parse_args()
    if not os.path.isdir(args.store):
        raise UserError(f"--store {args.store}: no such folder")
    store = Store(args.store)
    prune(store, args.keep_gb) if args.action == "prune" else show(store)
