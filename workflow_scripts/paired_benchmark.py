"""Time the finalists among a target's engines interleaved: round by round in one job, each in its own process.

The recipe is benchmark.py's with {"budget", "candidates": [{"precision", "batches"}]}, in the order of the engines.
Finalists are the engines within the budget on the select split, or else those that lose least; a single finalist is not
timed unless it has several batch sizes. All are loaded at once, and together they take as long as a benchmark of each.
Ratios are of each round's medians (measure/paired.py); a batch size is stable if the ratio of every two engines is
known to 2.5 %. What the choice is for (`objective`) decides nothing here.
"""

from __future__ import annotations

import os
from typing import Any

from core.command import Command, Job, engine_command, log, plugin_hash
from core.files import UserError, read_json, sha256_file, write_json
from measure import beside, paired


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
    plugin = plugin_hash(args)
    scripts = ("paired_benchmark.py", f"runtimes/{args.runtime}.py")
    cache = BenchmarkCache(scripts, args.final("paired_benchmark"), identity=args.identity, plugin=plugin)
    entries = time(rows, args.runtime, args.recipe, cache)
    write_json(args.paired_benchmark, {"finalists": [row["precision"] for row in rows], "paired_benchmark": entries})


def check(engines: list[str], hashes: list[str], scores: list[dict]) -> None:
    """Raise UserError if a score is of another engine."""
    for engine, digest, score in zip(engines, hashes, scores):
        if score["engine_sha256"] != digest:
            raise UserError(f"the score on the select split is of another engine than {engine}: run again")


def time(rows: list[dict], runtime: str, recipe: dict, cache: Any) -> list[dict]:
    """Return an entry for each batch size, in ascending order; none for one engine with one batch size."""
    from measure.interleaved import EngineProcess

    pairs = sorted(((row, batch) for row in rows for batch in row["batches"]), key=lambda pair: pair[1])
    if len(pairs) == 1:
        return []
    contenders = {row["engine"]: EngineProcess(runtime, row["engine"], recipe.get("threads", 0)) for row in rows}
    try:
        timed = in_turns(pairs, contenders, recipe, cache)
    finally:
        for contender in contenders.values():
            contender.end()
    parts = timed["batches"]
    entries = [entry(timed, part, [row for row, batch in pairs if batch == part["batch"]]) for part in parts]
    for each in entries:
        log_summary(each)
    return entries


def in_turns(pairs: list[tuple], contenders: dict, recipe: dict, cache: Any) -> dict:
    """Return the timing of (row, batch) pairs, a cached or a new one; contenders: {engine: its process}."""
    from measure import meters

    running = [contender.facts for contender in contenders.values()]
    meter = meters.meter_of(running[0]["on_gpu"])
    mode = meter.power_mode()
    meters.check_power_mode(recipe, mode)
    engines = [[row["engine_sha256"], batch] for row, batch in pairs]
    facts = {"engines": engines, "power_mode": mode, "running": running, "recipe": without_names(recipe)}
    return cache.get(lambda: take(pairs, contenders, recipe, meter, mode), **facts)


def entry(timed: dict, part: dict, rows: list[dict]) -> dict:
    """Return the entry of a batch size in the result JSON: its engines' rounds, and how all were timed."""
    named = [{key: row[key] for key in ("precision", "engine_sha256")} for row in rows]
    common = {key: timed[key] for key in ("power_mode", "beside", "timed", "timing_key", "machine")}
    return {**common, **part, "engines": [{**row, **turns} for row, turns in zip(named, part["engines"])]}


def without_names(recipe: dict) -> dict:
    """Return the part of a recipe that decides a timing."""
    return {key: value for key, value in recipe.items() if key not in ("budget", "candidates", "batches")}


def take(pairs: list[tuple], contenders: dict, recipe: dict, meter: Any, mode: str | None) -> dict:
    """Time all pairs: return the turns of each batch size, whether all are stable, and what ran beside them."""
    from measure import interleaved, timing

    window = beside.Window([os.getpid(), *(contender.process.pid for contender in contenders.values())])
    timed = [(contenders[row["engine"]], batch) for row, batch in pairs]
    turns = interleaved.in_rounds(timed, recipe, timing.options_of(recipe))
    summaries = [{"batch": batch, **interleaved.summary(several, batch)} for several, (_, batch) in zip(turns, pairs)]
    batches = [part(batch, summaries) for batch in sorted({batch for _, batch in pairs})]
    facts = {"power_mode": mode, "beside": window.end()}
    if meter.power_mode() != mode:
        batches = [{**one, "stable": False} for one in batches]
    return {**facts, "batches": batches, "stable": all(one["stable"] for one in batches)}


def part(batch: int, summaries: list[dict]) -> dict:
    """Return {batch, stable, engines} of a batch size; an engine alone there is compared with the first one."""
    own = [one for one in summaries if one["batch"] == batch]
    compared = own if len(own) > 1 else [*own, summaries[0]]
    steady = paired.is_stable([one["median_ms"] for one in compared])
    engines = [{key: value for key, value in one.items() if key != "batch"} for one in own]
    return {"batch": batch, "stable": steady, "engines": engines}


def log_summary(timed: dict) -> None:
    """Log each engine's speed over the first one's, with its interval."""
    from measure.benchmark_cache import NOT_STABLE

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
