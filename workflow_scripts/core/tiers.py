"""The store that config.yaml names: a folder, or a local folder before one that machines share (a folder, a bucket).

A job reads the local tier first, keeps there what it fetched from the shared store or made, and notes what is to be
uploaded (`.pending/KEY`). The run uploads it beside its jobs (store.py upload); what is left waits for the next run.
Where the shared store cannot be reached, jobs go on without it. The first warns; later ones try again after a while.
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from core.store import Entries, Store, Unreachable, log, manifest

STORE, OPTIONS = "LEVIT_STORE", "LEVIT_STORE_OPTIONS"  # the address, and JSON of the other keys of `store`
SCHEME = "s3://"
LOCAL = ".cache/store"  # the local tier before a bucket
PENDING, AWAY = ".pending", ".away"  # in the local tier
RETRY_S = 120.0  # seconds after which a store that could not be reached is tried again


class Tiers:
    """A local folder before a store that machines share; limit: bytes of the local tier, or None."""

    def __init__(self, local: Store, shared: Entries, limit: float | None = None) -> None:
        self.local, self.shared, self.limit = local, shared, limit
        self.name, self.pending, self.away = shared.name, local.root / PENDING, local.root / AWAY

    def fetch(self, key: str, outputs: dict[str, str]) -> dict | None:
        """Copy an entry's files to `outputs` and return its manifest, as Entries.fetch does; keep it locally."""
        entry = self.local.fetch(key, outputs)
        if entry is None and not self.is_away():
            try:
                entry = self.shared.fetch(key, outputs)
                self.forget_away()
            except Unreachable as problem:
                if self.note_away():
                    log.warning(self.complaint(problem))
            if entry:
                self.local.keep(key, outputs, entry["parts"])
                self._shrink()
        return entry

    def keep(self, key: str, outputs: dict[str, str], parts: dict) -> None:
        """Put outputs into the local tier and note them for the upload; log a warning if they cannot be written."""
        self.local.keep(key, outputs, parts)
        if not self.shared.read_only and self.local.entry(key).is_dir():
            with contextlib.suppress(OSError):  # then it is not shared
                self.note(key)
        self._shrink()

    def note(self, key: str) -> None:
        """Note a local entry for the upload."""
        self.pending.mkdir(parents=True, exist_ok=True)
        (self.pending / key).touch()

    def waiting(self) -> list[str]:
        """Return the keys of the entries that wait for their upload, those that were noted first first."""
        noted = []
        for path in self.pending.glob("*"):
            with contextlib.suppress(OSError):
                noted.append((path.stat().st_mtime, path.name))
        return [key for _, key in sorted(noted)]

    def upload(self, key: str) -> None:
        """Upload a local entry, unless it is damaged or gone; raise Unreachable, OSError."""
        folder = self.local.entry(key)
        with contextlib.suppress(FileNotFoundError):  # it was evicted meanwhile
            entry = None if self.local.problem(key) else manifest(folder)
            if entry:
                self.shared.put(key, {name: str(folder / name) for name in entry["outputs"]}, entry["parts"])
        with contextlib.suppress(FileNotFoundError):
            (self.pending / key).unlink()

    def complaint(self, problem: object) -> str:
        """Return the warning of a run that cannot reach the shared store."""
        return f"the store {self.name} is not used for now, and jobs go on without it: {problem}"

    def is_away(self) -> bool:
        """Return whether the shared store could not be reached a moment ago."""
        with contextlib.suppress(OSError):
            return abs(time.time() - self.away.stat().st_mtime) < RETRY_S  # a clock may have been set back
        return False

    def note_away(self) -> bool:
        """Note that the shared store cannot be reached; return whether that is news in this run."""
        with contextlib.suppress(OSError):
            self.away.parent.mkdir(parents=True, exist_ok=True)
            with open(self.away, "x"):
                return True
        with contextlib.suppress(OSError):
            os.utime(self.away)
            return False
        return True

    def forget_away(self) -> None:
        """Let the shared store be tried again at once."""
        with contextlib.suppress(OSError):
            self.away.unlink()

    def _shrink(self):
        if self.limit is not None:
            self.local.prune(self.limit, last=self.waiting())


def at(address: str, read_only: bool = False) -> Entries:
    """Return the store at an address, a folder or s3://bucket/prefix."""
    if not address.startswith(SCHEME):
        return Store(address, read_only)
    from core.bucket import Bucket

    return Bucket(address, read_only)


def opened(keys: dict) -> Entries | Tiers:
    """Return the store that the keys of `store` in config.yaml describe (rules/schemas/config.schema.yaml)."""
    shared, local, limit = at(keys["at"], keys.get("read_only", False)), keys.get("local"), keys.get("local_gb")
    if isinstance(shared, Store) and not local:
        return shared
    return Tiers(Store(local or LOCAL), shared, None if limit is None else limit * 1e9)


def default() -> Entries | Tiers | None:
    """Return the store of the environment, or None if there is none."""
    address = os.environ.get(STORE)
    return opened({**json.loads(os.environ.get(OPTIONS) or "{}"), "at": address}) if address else None
