"""Start Snakemake again in place of this process, where what it has planned no longer holds."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def again(variables: dict[str, str]) -> NoReturn:
    """Start over with the same command line; variables: what its environment has besides."""
    with open("/proc/self/cmdline", "rb") as stream:
        words = [os.fsdecode(word) for word in stream.read().split(b"\0")[:-1]]
    os.execve(sys.executable, words, {**os.environ, **variables})
