"""Time an engine file at each batch size: latency by trtexec's definitions, throughput by the host's clock.

The recipe is {"batches", "warmup_ms", "duration_ms", "iterations", "threads"?, "cuda_graph"?, "spin_wait"?,
"transfers"?, "power_mode"?, "other_power_mode"?}. Each timing says whether it is stable (measure/stats.py: is_stable),
and whether it is new or cached (measure/benchmark_cache.py). A value that a device cannot measure is null.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from core.command import Command, Job, engine_command, log
from core.files import sha256_file, write_json
from measure import beside, jetson, meters
from measure.benchmark_cache import NOT_STABLE, BenchmarkCache

if TYPE_CHECKING:
    from runtimes import Session

NOT_LATENCIES = ("wall", "energy")


def run(args: Job) -> None:
    import runtimes

    session = runtimes.load(args.runtime, args.plugin).load(args.engine, args.recipe.get("threads", 0))
    digest, scripts = sha256_file(args.engine), ("benchmark.py", f"runtimes/{args.runtime}.py")
    cache, entries = BenchmarkCache.of(args, "benchmark", *scripts, engine=digest, running=session.facts), []
    for batch in args.recipe["batches"]:
        take = functools.partial(entry, session, batch, args.recipe)
        entries.append(cache.in_mode(session.on_gpu, args.recipe, take, batch=batch))
        log_summary(entries[-1])
    write_json(args.benchmark, {"engine_sha256": digest, "benchmark": entries})


def entry(session: Session, batch: int, recipe: dict) -> dict:
    """Time a batch size and return its entry of the result JSON."""
    from measure import stats, timing

    meter = meters.meter_of(session.on_gpu)
    loop = timing.Loop(recipe["warmup_ms"], recipe["duration_ms"], recipe["iterations"], recipe, meter)
    before, window = meter.state(), beside.Window([os.getpid()])
    times = session.time(timing.images_for(session, batch), loop)
    ran, after = window.end(), meter.state()
    count, latency = len(times.latency), times.latency.tolist()
    return {
        "batch": batch,
        "throughput_qps": count / times.wall,
        "images_per_second": count * batch / times.wall,
        **{f"{name}_ms": stats.summary(getattr(times, name)) for name in times._fields if name not in NOT_LATENCIES},
        "iterations": count,
        "warmup_ms": recipe["warmup_ms"],
        **session.facts,
        "stable": stats.is_stable(latency) and before["power_mode"] == after["power_mode"],
        "coefficient_of_variation": stats.variation(latency),
        "energy_mj_per_image": times.energy / (count * batch) if times.energy else None,
        "power_mode": after["power_mode"],
        "power_mode_asked": recipe.get("power_mode"),
        "clocks_mhz": {"before": before["clock_mhz"], "after": after["clock_mhz"]},
        "board": jetson.board_delta(before, after),
        "beside": ran,
    }


def log_summary(timed: dict) -> None:
    """Log a timing in a line, and a warning if the board was throttled."""
    latency, note = timed["latency_ms"], "" if timed["stable"] else f": {NOT_STABLE}"
    figures = timed["batch"], latency["median"], latency["p99"], timed["images_per_second"], timed["iterations"]
    text = "batch %d: median %.3f ms, p99 %.3f ms, %.1f images/s, %d queries, CoV %.1f %%%s%s"
    log.info(text, *figures, 100 * timed["coefficient_of_variation"], note, beside.note(timed["beside"]))
    for slower in (timed["board"] or {}).get("throttling", ()):
        log.warning("at batch %d the board was throttled: %s", timed["batch"], slower)


def command() -> Command:
    return engine_command(__file__, __doc__, timed=True).input("--engine").output("--benchmark")


if __name__ == "__main__":
    command().run(run)
