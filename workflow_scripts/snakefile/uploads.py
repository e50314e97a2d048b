"""The process that uploads to a shared store what the jobs of this run keep (store.py upload)."""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import sys

from core import tiers
from core.files import UserError
from core.store import Store

SCRIPT = "workflow_scripts/store.py"
_running: list[subprocess.Popen] = []


def start() -> None:
    """Start the uploads of a run where its store takes them; raise UserError where boto3 is missing."""
    store = tiers.default()
    if not isinstance(store, tiers.Tiers):
        return
    if not isinstance(store.shared, Store):
        from core import bucket

        if not bucket.has_boto3():
            raise UserError(f"store: {store.name} needs boto3: {bucket.SETUP}, or name a folder in config.yaml (store)")
    store.forget_away()
    if not store.shared.read_only:
        _running.append(subprocess.Popen([sys.executable, SCRIPT, "upload", "--follow"], stdin=subprocess.PIPE))
        atexit.register(finish)


def finish() -> None:
    """Let the uploads of this run come to their end."""
    while _running:
        process = _running.pop()
        process.stdin.close()  # type: ignore[union-attr]
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
