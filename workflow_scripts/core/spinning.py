"""How threads wait for each other: in a job that is not timed they sleep soon, and leave the processors to others."""

from __future__ import annotations

import os

SPIN_COUNT = "1000"  # iterations that an OpenMP thread spins before it sleeps (tests/bench/busy.py measures it)
OURS = {"GOMP_SPINCOUNT": SPIN_COUNT, "LEVIT_SPIN": "0"}  # environment; libgomp reads its own when torch is imported


def reduce() -> None:
    """Let the libraries that this process imports from now on spin little; a user's own variables have precedence."""
    for name, value in OURS.items():
        os.environ.setdefault(name, value)


def reduced() -> bool:
    """Return whether a runtime's threads are to sleep instead of spinning."""
    return os.environ.get("LEVIT_SPIN") == "0"
