"""Remove the partial files of abandoned decodings, which are as large as a decoded split.

A killed decoding of PATH resumes from PATH.rows and PATH.done (data/row_file.py). These are removed if no job of this
run writes PATH and no later job will: PATH exists, config.yaml no longer has its names, or a week has passed.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from configuration.tables import Tables
from core.files import DONE, ROWS
from core.provenance import SUFFIX

IMAGES = re.compile(r"results/([^/]+)/data/([^./]+)\.\w+(?:\.\d+-of-(\d+))?\.u8")  # dataset, model, number of shards
KEPT_S = 7 * 86400.0  # after the last write


def remove(pending: Collection[str], tables: Tables) -> None:
    """Remove partial files of abandoned decodings and records of joined shards; pending: outputs of this run's jobs."""
    for rows in Path().glob(f"results/*/data/*{ROWS}"):
        path = str(rows.with_suffix(""))
        if path not in pending and _is_given_up(path, tables):
            _unlink(rows, Path(path + DONE))
    for record in Path().glob(f"results/*/data/*-of-*.u8{SUFFIX}"):
        if not record.with_suffix("").exists():
            _unlink(record)


def _is_given_up(path, tables):
    named = IMAGES.fullmatch(path)
    row = tables.names("dataset").get(named[1]) if named else None
    if not named or row is None or named[2] not in tables.names("model") or int(named[3] or 1) != row["shards"]:
        return True
    return os.path.exists(path) or time.time() - os.path.getmtime(path + ROWS) > KEPT_S


def _unlink(*paths):
    for path in paths:
        with contextlib.suppress(OSError):  # another user's, or gone
            path.unlink()
