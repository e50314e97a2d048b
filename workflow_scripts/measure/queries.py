"""Query an engine for a second at each batch size, in a process that a profiler watches (capture_nsys.py)."""

from __future__ import annotations

import json
import statistics
import sys

import runtimes
from core.files import one_line
from measure import meters, timing

WARMUP_MS, DURATION_MS, QUERIES = 200, 1000, 10


def command(runtime: str, engine: str, recipe: dict) -> list[str]:
    """Return the command line that queries an engine; recipe: {"batches", "threads"?}. It needs PYTHONPATH."""
    return [sys.executable, "-m", __name__, runtime, engine, json.dumps(recipe)]


def main() -> None:
    """Load the engine and query it, and print each batch size's median latency."""
    runtime, engine, recipe = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    session = runtimes.load(runtime).load(engine, recipe.get("threads", 0))
    for batch in recipe["batches"]:
        loop = timing.Loop(WARMUP_MS, DURATION_MS, QUERIES, meter=meters.meter_of(session.on_gpu))
        latencies = session.time(timing.images_for(session, batch), loop).latency
        print(f"batch {batch}: median {statistics.median(latencies):.3f} ms of {len(latencies)} queries", flush=True)


if __name__ == "__main__":
    one_line(main)
