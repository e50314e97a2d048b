"""The content-keyed store: outputs of equal work are copied, not computed again.

An entry is a folder named by its key, a hash of the contents of the inputs, the parameters, the code and the versions
of tools (core/command.py). Entries are renamed into place once complete, and verified by hash when read: a damaged or
unreadable entry counts as absent. The folder may be shared, also over NFS: no file in it is ever locked or changed,
modes follow the umask, and deleting it is safe. core/bucket.py has a store in a bucket, core/tiers.py one of two tiers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import stat
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Collection, NamedTuple

from core.files import partial_of, sha256_file, write_json

log = logging.getLogger("levit")

MANIFEST = "entry.json"
NEW = ".new-"  # prefix of an unfinished entry, and of one that is being removed
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)  # another job has stored the key first
FULL = (errno.ENOSPC, errno.EDQUOT)


class Damaged(Exception):
    """An entry differs from what was stored."""


class Unreadable(Damaged):
    """This user cannot read an entry now; it may serve others."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"{name}: {error.strerror}")
        self.is_stale = error.errno == errno.ESTALE  # of NFS: the file was replaced while it was open


class Unreachable(Exception):
    """The machine that has a store cannot be used now: why, without any text of that machine."""


class Entry(NamedTuple):
    """An entry in a listing: its last use in seconds since the epoch, its bytes, its key."""

    used: float
    size: int
    key: str


class Entries:
    """What a store does wherever its entries are; name: in messages; read_only: nothing is written or removed."""

    def __init__(self, name: str, read_only: bool = False) -> None:
        self.name, self.read_only = name, read_only

    def fetch(self, key: str, outputs: dict[str, str]) -> dict | None:
        """Copy an entry's files to `outputs` ({name: path}) and return its manifest, or None without an entry.

        An entry that is damaged (missing file, other hash) or unreadable counts as absent with a warning, and a
        damaged one is removed. Raise OSError if an output cannot be written.
        """
        partials = {name: partial_of(path) for name, path in outputs.items()}
        try:
            entry = self._read_again(key, partials)
            for name, path in partials.items() if entry else ():
                os.replace(path, outputs[name])
            return entry
        except Damaged as problem:
            log.warning("the store's entry %s counts as absent: %s", self.entry(key), problem)
            if not isinstance(problem, Unreadable) and not self.read_only:
                with contextlib.suppress(Unreachable):  # who may not remove it may still replace it
                    self.remove(key)
            return None
        finally:
            for path in partials.values():
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _read_again(self, key, partials):
        """Read an entry; once more where an NFS server has replaced it meanwhile."""
        try:
            return self.read(key, partials)
        except Unreadable as problem:
            if not problem.is_stale:
                raise
            return self.read(key, partials)

    def keep(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Put outputs ({name: path}) into the store as `put` does; log a warning if it cannot be written."""
        if self.read_only:
            return
        try:
            self.put(key, outputs, parts)
        except OSError as error:
            remedy = "prune it (python workflow_scripts/store.py prune), or " if error.errno in FULL else ""
            remedy += "name another folder in config.yaml (store)"
            log.warning("nothing is stored: %s: %s; %s", self.name, error.strerror or error, remedy)

    def problem(self, key: str) -> Damaged | None:
        """Return what is wrong with an entry of which every byte is read, or None."""
        try:
            return None if self.read(key, None) else Damaged(f"{MANIFEST} is missing")
        except Damaged as problem:
            return problem

    def prune(self, keep_bytes: float, last: Collection[str] = ()) -> list[str]:
        """Remove the least recently used entries (`last` at the end) until `keep_bytes` are left; return their keys."""
        entries = self.entries()
        total, gone = sum(entry.size for entry in entries), []
        for entry in sorted(entries, key=lambda entry: (entry.key in last, entry.used)):
            if total <= keep_bytes:
                break
            total -= entry.size
            self.remove(entry.key)
            gone.append(entry.key)
        return gone

    def entry(self, key: str) -> Any:
        """Return the address of an entry."""
        raise NotImplementedError

    def read(self, key: str, outputs: dict[str, str] | None) -> dict | None:
        """Write an entry's files to `outputs` (None: nowhere); return its manifest, None without one; raise Damaged."""
        raise NotImplementedError

    def put(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Store the files `outputs` ({name: path}) under `key`, a hash of `parts`, which are recorded."""
        raise NotImplementedError

    def remove(self, key: str) -> None:
        """Remove an entry, all of it at once."""
        raise NotImplementedError

    def entries(self) -> list[Entry]:
        """Return the readable entries, the least recently used first."""
        raise NotImplementedError

    def content(self, key: str) -> str:
        """Return the command that wrote an entry, or what is wrong with it, as a listing shows it."""
        raise NotImplementedError


class Store(Entries):
    """Artifacts by key under one folder."""

    def __init__(self, root: str | Path, read_only: bool = False) -> None:
        super().__init__(str(root), read_only)
        self.root = Path(root)

    def entry(self, key: str) -> Path:
        """Return the folder of an entry."""
        return self.root / key[:2] / key

    def read(self, key: str, outputs: dict[str, str] | None) -> dict | None:
        """Write an entry's files to `outputs` and return its manifest, as Entries says."""
        folder = self.entry(key)
        entry = manifest(folder)
        if entry is None:
            return None
        if outputs is not None and not self.read_only:
            with contextlib.suppress(OSError):
                os.utime(folder)  # at first, so that no other job prunes what is being read
        for name, path in (dict.fromkeys(entry["outputs"], os.devnull) if outputs is None else outputs).items():
            _copy_file(folder / name, path, entry["outputs"].get(name))
        return entry

    def remove(self, key: str) -> None:
        """Remove an entry: it gets another name first, so that nobody reads half of it."""
        folder = self.entry(key)
        gone = folder.with_name(f"{NEW}{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            os.rename(folder, gone)
        shutil.rmtree(gone if gone.exists() else folder, ignore_errors=True)

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
                if error.errno not in TAKEN and not folder.is_dir():  # NFS may send again what succeeded
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def entries(self) -> list[Entry]:
        """Return the readable entries, the least recently used first."""
        entries = []
        for folder in self.root.glob("??/[!.]*"):
            with contextlib.suppress(OSError), os.scandir(folder) as files:  # another process may remove it meanwhile
                size = sum(file.stat(follow_symlinks=False).st_size for file in files)
                entries.append(Entry(folder.stat().st_mtime, size, folder.name))
        return sorted(entries)

    def content(self, key: str) -> str:
        """Return the command that wrote an entry, or what is wrong with it; no file but its manifest is read."""
        try:
            return str(self._whole(key)["parts"].get("command", "?"))
        except Damaged as problem:
            return f"damaged: {problem}"

    def damage(self, key: str) -> Damaged | None:
        """Return what is wrong with an entry as far as its manifest and the names of its files tell, or None."""
        try:
            self._whole(key)
        except Damaged as problem:
            return problem
        return None

    def _whole(self, key):
        folder = self.entry(key)
        try:
            recorded = manifest(folder)
            missing = [f for f in recorded["outputs"] if not (folder / f).is_file()] if recorded else [MANIFEST]
        except OSError as error:
            raise Unreadable(MANIFEST, error) from None
        if missing:
            raise Damaged(f"{missing[0]} is missing")
        return recorded


def manifest(folder: Path) -> dict | None:
    """Return the manifest of an entry, or None if there is no entry; raise Damaged for an invalid one."""
    try:
        with _opened(folder / MANIFEST) as stream:
            return parsed(stream.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Unreadable(MANIFEST, error) from None


def parsed(text: bytes) -> dict:
    """Return the manifest in the bytes of its file; raise Damaged."""
    try:
        recorded = json.loads(text.decode("utf-8"))
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


def _copy_file(source, path, wanted):
    """Copy an entry's file; raise Damaged if its bytes are not those that were stored, or unreadable."""
    try:
        stream = _opened(source)
    except FileNotFoundError:
        raise Damaged(f"{source.name} is missing") from None
    except OSError as error:
        raise Unreadable(source.name, error) from None
    with stream:
        copy_verified(stream, path, wanted, source.name)


def copy_verified(stream: BinaryIO, path: str, wanted: str | None, name: str) -> None:
    """Write what a stream yields to a path; raise Damaged if its hex SHA-256 is not the wanted one, or unreadable."""
    digest = hashlib.sha256()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as copy:
        for block in iter(lambda: _block(stream, name), b""):
            digest.update(block)
            copy.write(block)
    if digest.hexdigest() != wanted:
        raise Damaged(f"{name} has another SHA-256 than its record")


def _block(stream, name):
    try:
        return stream.read(1 << 20)
    except OSError as error:
        raise Unreadable(name, error) from None


def _link(path, entry):
    try:
        os.link(path, entry)
    except OSError:
        shutil.copyfile(path, entry)
