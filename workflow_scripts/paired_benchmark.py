"""Time the finalists among a target's engines interleaved: round by round in one job, each in its own process.

The recipe is benchmark.py's with {"budget", "candidates": [{"precision", "batches"}]}, in the order of the engines.
Finalists are the engines within the budget on the select split, or else those that lose least; a single finalist is not
timed. All are loaded at once, and together they take as long as a benchmark of each. Ratios are of each round's medians
(measure/paired.py); a batch size is stable if the ratio of every two engines is known to 2.5 %.
"""

from __future__ import annotations

from typing import Any

from core.command import Command, Job, engine_command, log
from core.files import UserError, read_json, sha256_file, write_json


def run(args: Job) -> None:
    import runtimes
    from measure.benchmark_cache import BenchmarkCache
    from planning.criterion import finalists

    runtimes.load(args.runtime, args.plugin)  # the engines' processes load it as well
    hashes = [sha256_file(path) for path in args.engines]
    scores = [read_json(path) for path in args.select]
    check(args.engines, hashes, scores)
    able = finalists(scores, args.recipe["budget"])
    rows = [{**args.recipe["candidates"][i], "engine_sha256": hashes[i], "engine": args.engines[i]} for i in able]
    log.info("finalists: %s", ", ".join(row["precision"] for row in rows))
    plugin = sha256_file(args.plugin) if args.plugin else None
    scripts = ("paired_benchmark.py", f"runtimes/{args.runtime}.py")
    cache = BenchmarkCache(scripts, args.final("paired_benchmark"), identity=args.identity, plugin=plugin)
    entries = time(rows, args.runtime, args.recipe, cache) if len(rows) > 1 else []
    write_json(args.paired_benchmark, {"finalists": [row["precision"] for row in rows], "paired_benchmark": entries})


def check(engines: list[str], hashes: list[str], scores: list[dict]) -> None:
    """Raise UserError if a score is of another engine."""
    for engine, digest, score in zip(engines, hashes, scores):
        if score["engine_sha256"] != digest:
            raise UserError(f"the score on the select split is of another engine than {engine}: run again")


def time(rows: list[dict], runtime: str, recipe: dict, cache: Any) -> list[dict]:
    """Return an entry for each batch size that at least two finalists have, in ascending order."""
    from measure.interleaved import EngineProcess

    contenders = [EngineProcess(runtime, row["engine"], recipe.get("threads", 0)) for row in rows]
    batches = sorted({batch for row in rows for batch in row["batches"]})
    several = [(batch, [n for n, row in enumerate(rows) if batch in row["batches"]]) for batch in batches]
    try:
        return [
            entry(batch, [rows[n] for n in able], [contenders[n] for n in able], recipe, cache)
            for batch, able in several
            if len(able) > 1
        ]
    finally:
        for contender in contenders:
            contender.end()


def entry(batch: int, rows: list[dict], contenders: list, recipe: dict, cache: Any) -> dict:
    """Return the entry of a batch size in the result JSON, from a cached timing or a new one."""
    from measure import meters

    meter = meters.meter_of(contenders[0].facts["on_gpu"])
    mode = meter.power_mode()
    meters.check_power_mode(recipe, mode)
    facts = {"batch": batch, "engines": [row["engine_sha256"] for row in rows], "power_mode": mode}
    facts.update(running=[contender.facts for contender in contenders], recipe=without_names(recipe))
    timed = cache.get(lambda: take(batch, contenders, recipe, meter, mode), **facts)
    times = timed.pop("median_ms")
    named = [{key: row[key] for key in ("precision", "engine_sha256")} for row in rows]
    timed = {**timed, "engines": [{**row, "median_ms": one} for row, one in zip(named, times)]}
    log_summary(timed)
    return timed


def without_names(recipe: dict) -> dict:
    """Return the part of a recipe that decides a timing."""
    return {key: value for key, value in recipe.items() if key not in ("budget", "candidates", "batches")}


def take(batch: int, contenders: list, recipe: dict, meter: Any, mode: str | None) -> dict:
    """Time a batch size: return the milliseconds of each round, and whether their ratios are stable."""
    from measure import interleaved, paired, timing

    times = interleaved.round_times(contenders, batch, recipe, timing.options_of(recipe))
    steady = paired.is_stable(times) and meter.power_mode() == mode
    return {"batch": batch, "median_ms": times, "stable": steady, "power_mode": mode}


def log_summary(timed: dict) -> None:
    """Log each engine's speed over the first one's, with its interval."""
    from measure import paired
    from measure.benchmark_cache import NOT_STABLE

    base = timed["engines"][0]
    for other in timed["engines"][1:]:
        ratio = paired.speed_ratio(other["median_ms"], base["median_ms"])
        figures = timed["batch"], other["precision"], ratio["ratio"], base["precision"], ratio["low"], ratio["high"]
        log.info("batch %d: %s is %.3f times as fast as %s (%.3f to %.3f)", *figures)
    if not timed["stable"]:
        log.info("batch %d: %s", timed["batch"], NOT_STABLE)


def command() -> Command:
    c = engine_command(__file__, __doc__, timed=True)
    c.input("--engines", nargs="+").input("--select", nargs="+", help="their scores on the select split")
    return c.output("--paired-benchmark")


if __name__ == "__main__":
    command().run(run)
