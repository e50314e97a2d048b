"""Timings cached on the machine that took them, and returned for an equal key. Standard library only.

A key is of the engine's bytes, the recipe, the code that times, the target's identity, this machine, the number of
its processors that may be used, and its power mode. Entries lie in the folder of LEVIT_BENCHMARKS, never in the shared
store; without that folder, or on a machine without an id, nothing is cached. A timing that is not stable is never
cached. An output that LEVIT_RETIME lists is timed anew, and its cached timings are dropped first (retime.py).
"""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import processors, sources
from core.command import Job, plugin_hash
from core.files import UserError, digest_of, read_json, write_json
from devices.probe import machine
from measure import meters

FOLDER, RETIME = "LEVIT_BENCHMARKS", "LEVIT_RETIME"
KEPT, NEW = "kept", "new"
CHOICE = ("batches", "budget", "candidates")  # keys of a recipe that say what is timed, not how
NOT_STABLE = "NOT STABLE; to time it again on an idle machine: make retime RESULT=results/X.json"

log = logging.getLogger("levit")


def timing_code(*scripts: str) -> dict[str, str]:
    """Return {module: code hash} of scripts and their imports, without those that every command imports."""
    modules = set(sources.closure(*scripts)) - set(sources.closure("core/command.py"))
    return {str(path.relative_to(sources.ROOT)): sources.code_hash(path) for path in sorted(modules)}


class BenchmarkCache:
    """The cached timings of one command's engines."""

    def __init__(self, scripts: tuple[str, ...], output: str, **facts: Any):
        """scripts: the code that times; output: the command's output; facts: the rest of the key, as JSON."""
        self.folder = os.environ.get(FOLDER)
        self.retime = output in os.environ.get(RETIME, "").split(os.pathsep)
        self.common = {"code": timing_code(*scripts), "machine": machine(), **facts}
        self.common["processors"] = processors.available()  # fewer by taskset or in a container

    @classmethod
    def of(cls, args: Job, output: str, *scripts: str, **facts: Any) -> BenchmarkCache:
        """Return the cache of a command of `engine_command`, whose output has a name; scripts, facts: as __init__'s."""
        return cls(scripts, args.final(output), identity=args.identity, plugin=plugin_hash(args), **facts)

    def in_mode(self, on_gpu: bool, recipe: dict, measure: Callable[[], dict], **facts: Any) -> dict:
        """Return `get` of a recipe in the device's power mode; raise UserError where the recipe asks for another."""
        mode = meters.meter_of(on_gpu).power_mode()
        meters.check_power_mode(recipe, mode)
        how = {key: value for key, value in recipe.items() if key not in CHOICE}
        return self.get(measure, recipe=how, power_mode=mode, **facts)

    def get(self, measure: Callable[[], dict], **facts: Any) -> dict:
        """Return a cached timing with `timed: kept`, else that of `measure()` with `timed: new`.

        facts: the rest of the key. A new timing is cached where it is `stable`. Both have their `machine` and their
        `timing_key`, which is null where nothing can be cached.
        """
        parts = {**self.common, **facts}
        place = {"machine": parts["machine"]}
        if not self.folder or not parts["machine"]:
            return {**measure(), **place, "timed": NEW, "timing_key": None}
        key = digest_of(parts)
        path = os.path.join(self.folder, f"{key}.json")
        entry = self._read(path, parts)
        if entry:
            log.info("kept timing of %s: the same engine, recipe, code and machine", entry["date"])
            return {**entry["timing"], **place, "timed": KEPT, "timing_key": key}
        timing = measure()
        if timing["stable"]:
            _write(path, parts, timing)
        return {**timing, **place, "timed": NEW, "timing_key": key}

    def _read(self, path, parts):
        """Return an entry; drop one that is timed anew; a damaged one counts as absent."""
        if self.retime:
            Path(path).unlink(missing_ok=True)
        try:
            entry = read_json(path)
            whole = entry["parts"] == parts and entry["sha256"] == digest_of(entry["timing"])
            return entry if whole and isinstance(entry["date"], str) else None
        except (UserError, OSError, KeyError, TypeError, ValueError):
            return None


def _write(path, parts, timing):
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    try:
        write_json(path, {"parts": parts, "timing": timing, "sha256": digest_of(timing), "date": date})
    except OSError as problem:
        log.warning("the timing is not kept: %s: %s", problem.filename or path, problem.strerror)
