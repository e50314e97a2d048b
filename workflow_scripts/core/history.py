"""Histories of results: what earlier results of the same name said, in short. Standard library only.

Snakemake removes the outputs of a stale job before it runs again. Before its first job a run therefore writes what each
pending result says, and its history so far, into FOLDER. From there the job record_history takes what it adds its
result to. Two entries that say the same of the same artifacts are one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from core.files import UserError, read_json, write_json

FOLDER = ".cache/history"
MOST = 50  # entries of a name: the latest ones
KEPT = ("result", "history")  # outputs that are taken down
SCORES = ("top1", "agreement_with_fp32", "num_images", "within_budget")
FACTS = ("checkpoint_sha256", "graph_sha256", "calibration_sha256", "git_commit", "versions")
TIMING = ("batch", "images_per_second", "stable", "energy_mj_per_image", "machine", "power_mode")


def keep(jobs: Iterable) -> None:
    """Take down the results and the histories that pending Snakemake jobs replace."""
    for output, path in [item for job in jobs for item in job.output.items()]:
        if output in KEPT:
            keep_file(str(path))


def keep_file(path: str) -> None:
    """Take down a result or a history, by its file's name; what is not there or cannot be read is left out."""
    try:
        found = entries_of(path) if os.path.isfile(path) else []
    except UserError:
        return
    kept = kept_of(path)
    everything = merged(kept, found)
    if everything != kept:
        write_json(_kept(path), {"entries": everything})


def kept_of(path: str) -> list[dict[str, Any]]:
    """Return the entries that were taken down for a result's name; path: of the result or its history."""
    try:
        return entries_of(_kept(path)) if os.path.isfile(_kept(path)) else []
    except UserError:
        return []


def _kept(path):
    return os.path.join(FOLDER, os.path.basename(path))


def entries_of(path: str) -> list[dict[str, Any]]:
    """Return the entries of a history's file, or the one of a result's; none of any other file. Raises UserError."""
    parsed = read_json(path)
    if not isinstance(parsed, dict):
        return []
    if isinstance(parsed.get("entries"), list):
        return parsed["entries"]
    return [entry(parsed, date_of(path))] if isinstance(parsed.get("benchmark"), list) else []


def date_of(path: str) -> str:
    """Return when a file was written, in UTC to the second."""
    return datetime.fromtimestamp(os.path.getmtime(path), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def entry(result: dict[str, Any], date: str) -> dict[str, Any]:
    """Return what a history has of a result of any version of its schema."""
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
    """Return entries in the order of their dates, at most MOST; of those in a row that say the same, the first."""
    ordered = sorted((one for entries in several for one in entries), key=lambda one: str(one.get("date")))
    before = [None, *ordered]
    return [one for one, last in zip(ordered, before) if last is None or _said(one) != _said(last)][-MOST:]


def _said(one):
    return {key: value for key, value in one.items() if key != "date"}
