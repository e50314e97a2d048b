"""Time the finalists among a target's engines interleaved: round by round in one job, each in its own process.

The recipe is benchmark.py's with {"budget", "candidates": [{"precision", "batches"}]}, in the order of the engines.
Finalists are the engines within the budget on the select split, or else those that lose least; a single finalist is not
timed unless it has several batch sizes. All are loaded at once, and together they take as long as a benchmark of each.
Ratios are of each round's medians (measure/paired.py); a batch size is stable if the ratio of every two engines is
known to 2.5 %. What the choice is for (`objective`) decides nothing here.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from core.command import Command, Job, engine_command, log
from core.files import read_json, sha256_file, write_json
from measure import beside, meters, paired
from measure.benchmark_cache import NOT_STABLE, BenchmarkCache


def run(args: Job) -> None:
    import runtimes
    from planning import criterion

    runtimes.load(args.runtime, args.plugin)  # the engines' processes load it as well
    engines = [(path, sha256_file(path)) for path in args.engines]
    scores = [read_json(path) for path in args.select]
    criterion.check_engines(scores, engines)
    named = [dict(zip(("engine", "engine_sha256"), engine)) for engine in engines]
    able = criterion.finalists(scores, args.recipe["budget"])
    rows = [{**args.recipe["candidates"][number], **named[number]} for number in able]
    log.info("finalists: %s", ", ".join(row["precision"] for row in rows))
    cache = BenchmarkCache.of(args, "paired_benchmark", "paired_benchmark.py", f"runtimes/{args.runtime}.py")
    entries = time(rows, args.runtime, args.recipe, cache)
    write_json(args.paired_benchmark, {"finalists": [row["precision"] for row in rows], "paired_benchmark": entries})


def time(rows: list[dict], runtime: str, recipe: dict, cache: BenchmarkCache) -> list[dict]:
    """Return an entry for each batch size, in ascending order; none for one engine with one batch size."""
    from measure.interleaved import EngineProcess

    pairs = sorted(((row, batch) for row in rows for batch in row["batches"]), key=lambda pair: pair[1])
    if len(pairs) == 1:
        return []
    threads = recipe.get("threads", 0)
    with contextlib.ExitStack() as processes:
        started = ((row["engine"], EngineProcess(runtime, row["engine"], threads)) for row in rows)
        loaded = {engine: processes.enter_context(contextlib.closing(process)) for engine, process in started}
        running = [process.facts for process in loaded.values()]
        on_gpu, engines = running[0]["on_gpu"], [[row["engine_sha256"], batch] for row, batch in pairs]
        timing = functools.partial(take, pairs, loaded, recipe, meters.meter_of(on_gpu))
        timed = cache.in_mode(on_gpu, recipe, timing, engines=engines, running=running)
    parts = timed["batches"]
    entries = [entry(timed, part, [row for row, batch in pairs if batch == part["batch"]]) for part in parts]
    for each in entries:
        log_summary(each)
    return entries


def entry(timed: dict, part: dict, rows: list[dict]) -> dict:
    """Return the entry of a batch size in the result JSON: its engines' rounds, and how all were timed."""
    named = [{key: row[key] for key in ("precision", "engine_sha256")} for row in rows]
    common = {key: timed[key] for key in ("power_mode", "beside", "timed", "timing_key", "machine")}
    return {**common, **part, "engines": [{**row, **turns} for row, turns in zip(named, part["engines"])]}


def take(pairs: list[tuple], loaded: dict, recipe: dict, meter: Any) -> dict:
    """Time (row, batch) pairs: return the turns of each batch size, whether all are stable, and what ran beside them.

    loaded: {engine: its process}. Turns in which the power mode changes are not stable.
    """
    from measure import interleaved

    mode = meter.power_mode()
    summaries, ran = interleaved.summaries([(loaded[row["engine"]], batch) for row, batch in pairs], recipe)
    batches = [part(batch, summaries) for batch in sorted({batch for _, batch in pairs})]
    if meter.power_mode() != mode:
        batches = [{**one, "stable": False} for one in batches]
    return {"power_mode": mode, "beside": ran, "batches": batches, "stable": all(one["stable"] for one in batches)}


def part(batch: int, summaries: list[dict]) -> dict:
    """Return {batch, stable, engines} of a batch size; an engine alone there is compared with the first one."""
    of_batch = [one for one in summaries if one["batch"] == batch]
    compared = of_batch if len(of_batch) > 1 else [*of_batch, summaries[0]]
    steady = paired.is_stable([one["median_ms"] for one in compared])
    engines = [{key: value for key, value in one.items() if key != "batch"} for one in of_batch]
    return {"batch": batch, "stable": steady, "engines": engines}


def log_summary(timed: dict) -> None:
    """Log each engine's speed over the first one's, with its interval."""
    base = timed["engines"][0]
    for other in timed["engines"][1:]:
        ratio = paired.speed_ratio(other["median_ms"], base["median_ms"])
        figures = timed["batch"], other["precision"], ratio["ratio"], base["precision"], ratio["low"], ratio["high"]
        log.info("batch %d: %s is %.3f times as fast as %s (%.3f to %.3f)", *figures)
    if not timed["stable"]:
        log.warning("batch %d: %s%s", timed["batch"], NOT_STABLE, beside.note(timed["beside"]))


def command() -> Command:
    c = engine_command(__file__, __doc__, timed=True)
    c.input("--engines", nargs="+").input("--select", nargs="+", help="their scores on the select split")
    return c.output("--paired-benchmark")


if __name__ == "__main__":
    command().run(run)
