"""Timings that are kept on the machine that took them, and given again for an equal key. Standard library only.

A timing's key is of the engine's bytes, the recipe, the code that times, the target's identity, this machine and its
power mode. What is kept lies in the folder of LEVIT_BENCHMARKS and never in the shared store; without that folder, or
on a machine without an id, nothing is kept. A timing that is not stable is never kept. Outputs that LEVIT_RETIME lists
are timed anew, and what was kept for them is dropped first (retime.py).
"""

import datetime
import hashlib
import logging
import os
from pathlib import Path

from core import sources
from core.files import UserError, digest_of, read_json, system_text, write_json

FOLDER, AGAIN = "LEVIT_BENCHMARKS", "LEVIT_RETIME"
MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
KEPT, NEW = "kept", "new"
NOT_STABLE = "NOT STABLE; to time it again on an idle machine: make retime RESULT=results/X.json"

log = logging.getLogger("levit")


def machine(root="/"):
    """Return a hash that is this machine's own and does not tell its id, or None where it has none."""
    found = next(filter(None, (system_text(os.path.join(root, path)).strip() for path in MACHINE_IDS)), None)
    return found and hashlib.sha256(f"levit timing {found}".encode()).hexdigest()[:32]


def timing_code(*scripts):
    """Return {module: hash of what it does} of scripts and what they import, less what every command imports."""
    modules = set(sources.closure(*scripts)) - set(sources.closure("core/command.py"))
    return {str(path.relative_to(sources.ROOT)): sources.code_hash(path) for path in sorted(modules)}


def is_again(output):
    """Return whether LEVIT_RETIME lists an output of a command."""
    return output in os.environ.get(AGAIN, "").split(os.pathsep)


class Shelf:
    """The kept timings of one command's engines."""

    def __init__(self, scripts, output, **facts):
        """scripts: what times; output: the path of what is written; facts: the rest of the key, as JSON."""
        self.folder, self.again = os.environ.get(FOLDER), is_again(output)
        self.common = {"code": timing_code(*scripts), "machine": machine(), **facts}

    def get(self, take, **facts):
        """Return a kept timing with `timed: kept`, else the one that `take()` returns, a dict, with `timed: new`.

        facts: the rest of the key. A new timing is kept where it is stable (`stable`). Both have their `timing_key`,
        null where nothing can be kept.
        """
        parts = {**self.common, **facts}
        key = digest_of(parts) if self.folder and parts["machine"] else None
        kept = self._find(key, parts) if key else None
        if kept:
            log.info("kept timing of %s: the same engine, recipe, code and machine", kept["date"])
            return {**kept["timing"], "timed": KEPT, "timing_key": key}
        timing = take()
        if key and timing["stable"]:
            self._keep(key, parts, timing)
        return {**timing, "timed": NEW, "timing_key": key}

    def _path(self, key):
        return os.path.join(self.folder, f"{key}.json")

    def _find(self, key, parts):
        """Return what is kept; drop it where it is asked for again; what is damaged counts as absent."""
        if self.again:
            Path(self._path(key)).unlink(missing_ok=True)
        try:
            found = read_json(self._path(key))
            whole = found["parts"] == parts and found["sha256"] == digest_of(found["timing"])
            return found if whole and isinstance(found["date"], str) else None
        except (UserError, OSError, KeyError, TypeError, ValueError):
            return None

    def _keep(self, key, parts, timing):
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        try:
            kept = {"parts": parts, "timing": timing, "sha256": digest_of(timing), "date": date}
            write_json(self._path(key), kept)
        except OSError as problem:
            log.warning("the timing is not kept: %s: %s", problem.filename or self.folder, problem.strerror)
