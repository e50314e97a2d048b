"""Histories of results: a short entry for each result that a name has had. Standard library only.

Snakemake removes the outputs of a stale job before it runs again. Before its first job a run therefore saves an entry
of each pending result, and its history so far, in FOLDER. The job record_history adds the new result to these. Two
entries in a row with the same figures of the same artifacts count as one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from core.files import UserError, read_json, write_json

FOLDER = ".cache/history"
MOST = 50  # entries of a name: the latest ones
SAVED = ("result", "history")  # outputs whose entries are saved
SCORES = ("top1", "agreement_with_fp32", "num_images", "within_budget")
FACTS = ("checkpoint_sha256", "graph_sha256", "calibration_sha256", "git_commit", "versions")
TIMING = ("batch", "images_per_second", "stable", "energy_mj_per_image", "machine", "power_mode")


def save(jobs: Iterable) -> None:
    """Save the entries of the results and histories that pending Snakemake jobs replace."""
    for output, path in [item for job in jobs for item in job.output.items()]:
        if output in SAVED:
            save_file(str(path))


def save_file(path: str) -> None:
    """Save the entries of a result or a history under its file's name; skip a file that is missing or unreadable."""
    saved = saved_entries(path)
    every = merged(saved, _readable(path))
    if every != saved:
        write_json(_saved_path(path), {"entries": every})


def saved_entries(path: str) -> list[dict[str, Any]]:
    """Return the saved entries of a result's name; path: of the result or its history."""
    return _readable(_saved_path(path))


def _readable(path):
    with contextlib.suppress(UserError):
        return entries_of(path)
    return []


def _saved_path(path):
    return os.path.join(FOLDER, os.path.basename(path))


def entries_of(path: str) -> list[dict[str, Any]]:
    """Return the entries of a history's file, or the one of a result's; none of any other file. Raises UserError."""
    parsed = read_json(path)
    if not isinstance(parsed, dict):
        return []
    if isinstance(parsed.get("entries"), list):
        return parsed["entries"]
    written = datetime.fromtimestamp(os.path.getmtime(path), timezone.utc)
    date = written.strftime("%Y-%m-%dT%H:%M:%SZ")
    return [entry(parsed, date)] if isinstance(parsed.get("benchmark"), list) else []


def entry(result: dict[str, Any], date: str) -> dict[str, Any]:
    """Return the entry of a result, of any version of its schema."""
    accuracy, engine, made, identity = (
        result.get(part) or {} for part in ("accuracy", "engine", "provenance", "target_identity")
    )
    return {
        "date": date,
        **{key: result.get(key) for key in ("chosen", "chosen_batch", "objective")},
        "dataset": (result.get("dataset") or {}).get("name"),
        "accuracy": {key: accuracy.get(key) for key in SCORES},
        "benchmark": [_timing(one) for one in result["benchmark"]],
        "engine": {key: engine.get(key) for key in ("sha256", "bytes", "int8_share_of_macs")},
        "device": identity.get("device") or identity.get("cpu"),
        **{key: made.get(key) for key in FACTS},
    }


def _timing(one):
    latency = {key: (one.get("latency_ms") or {}).get(key) for key in ("median", "p99")}
    return {**{key: one.get(key) for key in TIMING}, "latency_ms": latency}


def merged(*several: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return entries in the order of their dates, at most MOST; of equal ones in a row, the first."""
    ordered = sorted(itertools.chain(*several), key=lambda one: str(one.get("date")))
    equal = itertools.groupby(ordered, lambda one: {key: value for key, value in one.items() if key != "date"})
    return [next(entries) for _, entries in equal][-MOST:]
