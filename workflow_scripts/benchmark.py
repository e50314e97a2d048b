"""Time an engine from its file, per batch size: latency by trtexec's definitions, throughput over the host's clock.

The recipe is {"batches", "warmup_ms", "duration_ms", "iterations", "threads"?, "cuda_graph"?, "spin_wait"?,
"transfers"?, "power_mode"?, "other_power_mode"?}. Each timing says whether it is stable (measure/stats.py: is_stable),
and whether it is new or cached (measure/benchmark_cache.py). What a device cannot measure is null.
"""

from core.command import Command, Job, engine_command, log
from core.files import sha256_file, write_json

NOT_LATENCIES = ("wall", "energy")


def run(args: Job) -> None:
    import runtimes
    from measure.benchmark_cache import BenchmarkCache

    session = runtimes.load(args.runtime).load(args.engine, args.recipe.get("threads", 0))
    digest, scripts = sha256_file(args.engine), ("benchmark.py", f"runtimes/{args.runtime}.py")
    facts = {"engine": digest, "identity": args.identity, "running": session.facts}
    cache = BenchmarkCache(scripts, args.final("benchmark"), **facts)
    entries = [cached_or_new(cache, session, batch, args.recipe) for batch in args.recipe["batches"]]
    write_json(args.benchmark, {"engine_sha256": digest, "benchmark": entries})


def cached_or_new(cache, session, batch, recipe):
    """Return one batch size's timing: kept, where it is of this power mode, or taken now."""
    from measure import meters

    mode = meters.meter_of(session.on_gpu).power_mode()
    meters.check_power_mode(recipe, mode)
    facts = {key: value for key, value in recipe.items() if key != "batches"}
    found = cache.get(lambda: entry(session, batch, recipe), batch=batch, recipe=facts, power_mode=mode)
    tell(found)
    return found


def entry(session, batch, recipe):
    """Return one batch size's timing, taken now."""
    from measure import jetson, meters, stats, timing

    meter, options = meters.meter_of(session.on_gpu), timing.options_of(recipe)
    loop = timing.Loop(recipe["warmup_ms"], recipe["duration_ms"], recipe["iterations"], options, meter)
    before = meter.state()
    meters.check_power_mode(recipe, before["power_mode"])
    times = session.time(timing.images_for(session, batch), loop)
    after = meter.state()
    count, latency = len(times.latency), list(times.latency)
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
    }


def tell(found):
    """Log a timing in a line."""
    from measure.benchmark_cache import NOT_STABLE

    latency, note = found["latency_ms"], "" if found["stable"] else f": {NOT_STABLE}"
    figures = found["batch"], latency["median"], latency["p99"], found["images_per_second"], found["iterations"]
    text = "batch %d: median %.3f ms, p99 %.3f ms, %.1f images/s, %d queries, CoV %.1f %%%s"
    log.info(text, *figures, 100 * found["coefficient_of_variation"], note)
    for slower in (found["board"] or {}).get("throttling", ()):
        log.info("warning: at batch %d the board was slowed down: %s", found["batch"], slower)


def command() -> Command:
    return engine_command(__file__, __doc__).input("--engine").output("--benchmark")


if __name__ == "__main__":
    command().run(run)
