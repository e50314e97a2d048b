"""Time an engine with NVIDIA's trtexec in the same way as benchmark.py, to check our own timing.

The recipe is benchmark.py's. Without trtexec the output has `installed: false` and no timing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from core.command import Command, Job, engine_command, log
from core.files import sha256_file, write_json
from devices import toolchain
from measure.benchmark_cache import BenchmarkCache

LATENCIES = ("latency", "compute", "h2d", "d2h", "enqueue")


def run(args: Job) -> None:
    from measure import trtexec

    tool = trtexec.find((args.identity or {}).get("version"))
    digest = sha256_file(args.engine)
    output: dict = {"installed": bool(tool), "engine_sha256": digest, "version": None, "trtexec": []}
    if tool:
        log.info("%s of TensorRT %s", tool.program, tool.version)
        output.update(version=tool.version, trtexec=list(entries(tool, args, digest)))
    else:
        log.info("trtexec is not installed here (neither on PATH nor %s): nothing is compared", toolchain.TRTEXEC)
    write_json(args.trtexec, output)


def entries(tool: Any, args: Job, digest: str) -> Iterator[dict]:
    """Yield the timing, cached or new, of each batch size that this trtexec can run."""
    cache = BenchmarkCache.of(args, "trtexec", "run_trtexec.py", engine=digest, trtexec=tool.version)
    for batch, shapes, profile in queries(args, args.recipe["batches"]):
        if tool.serves(profile):
            take = functools.partial(entry, batch, tool, (args.engine, shapes, profile, args.recipe))
            timed = cache.in_mode(True, args.recipe, take, batch=batch)
            log_summary(timed)
            yield timed
        else:
            log.info("batch %d: not timed: this trtexec runs only the first optimization profile", batch)


def queries(args: Job, batches: list[int]) -> list[tuple[int, str | None, int]]:
    """Return [(batch, value of --shapes, number of the optimization profile)] of an engine.

    The shapes are None for an engine of a fixed batch size.
    """
    import runtimes

    session = runtimes.load(args.runtime, args.plugin).load(args.engine)
    name, shape = next(iter(session.inputs.items()))
    texts = {batch: "x".join(str(size) for size in [batch, *list(shape)[1:]]) for batch in batches}
    shapes_of = {batch: f"{name}:{text}" if shape[0] < 0 else None for batch, text in texts.items()}
    return [(batch, shapes, session.optimization_profile(batch)) for batch, shapes in shapes_of.items()]


def entry(batch: int, tool: Any, query: tuple) -> dict:
    """Time a batch size, and return the summaries that benchmark.py has too."""
    from measure import stats

    times = tool.time(*query)
    count, summaries = len(times.latency), {f"{name}_ms": stats.summary(getattr(times, name)) for name in LATENCIES}
    steady = stats.is_stable(times.latency.tolist())
    return {"batch": batch, "throughput_qps": count / times.wall, **summaries, "iterations": count, "stable": steady}


def log_summary(timed: dict) -> None:
    """Log a timing in a line."""
    figures = timed["batch"], timed["compute_ms"]["median"], timed["compute_ms"]["p99"], timed["iterations"]
    log.info("batch %d: trtexec's compute: median %.3f ms, p99 %.3f ms, %d queries", *figures)


def command() -> Command:
    return engine_command(__file__, __doc__, timed=True).input("--engine").output("--trtexec")


if __name__ == "__main__":
    command().run(run)
