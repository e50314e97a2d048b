"""Time an engine and PyTorch's of the same model in turns, round by round in one job, each in its own process.

The recipe is benchmark.py's. A ratio is of each round's medians (measure/paired.py), above 1 where the engine is faster
than PyTorch; it is stable if it is known to 2.5 %.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from core.command import Command, Job, engine_command, log, plugin_hash
from core.files import sha256_file, write_json
from measure import beside

RUNTIME = "pytorch"


def run(args: Job) -> None:
    import runtimes
    from measure.benchmark_cache import BenchmarkCache
    from measure.interleaved import EngineProcess

    runtimes.load(args.runtime, args.plugin)  # the engines' processes load it as well
    plugin = plugin_hash(args)
    threads, hashes = args.recipe.get("threads", 0), [sha256_file(path) for path in (args.engine, args.pytorch)]
    scripts = ("compare_pytorch.py", f"runtimes/{args.runtime}.py", f"runtimes/{RUNTIME}.py")
    cache = BenchmarkCache(scripts, args.final("comparison"), engines=hashes, identity=args.identity, plugin=plugin)
    pair = [EngineProcess(args.runtime, args.engine, threads), EngineProcess(RUNTIME, args.pytorch, threads)]
    try:
        entries = [entry(batch, pair, args.recipe, cache, args.name) for batch in args.recipe["batches"]]
    finally:
        for engine in pair:
            engine.end()
    facts = {"pytorch": args.name, "pytorch_sha256": hashes[1]}
    write_json(args.comparison, {"engine_sha256": hashes[0], **facts, "batches": entries})


def entry(batch: int, pair: list, recipe: dict, cache: Any, name: str) -> dict:
    """Return the entry of a batch size in the result JSON, from a cached timing or a new one, and log it."""
    from measure import meters, paired

    meter = meters.meter_of(pair[0].facts["on_gpu"])
    mode = meter.power_mode()
    meters.check_power_mode(recipe, mode)
    facts = {"batch": batch, "recipe": {key: value for key, value in recipe.items() if key != "batches"}}
    facts.update(running=[engine.facts for engine in pair], power_mode=mode)
    timed = cache.get(lambda: take(batch, pair, recipe), **facts)
    ratio = paired.speed_ratio(*timed["median_ms"])
    log_summary(batch, ratio, name, timed)
    return {"batch": batch, **ratio, "slower": ratio["ratio"] < 1, **timed}


def take(batch: int, pair: list, recipe: dict) -> dict:
    """Time a batch size in turns: return each round's milliseconds, whether their ratio is stable, what ran beside."""
    from measure import interleaved, paired, timing

    window = beside.Window([os.getpid(), *(engine.process.pid for engine in pair)])
    turns = interleaved.in_rounds([(engine, batch) for engine in pair], recipe, timing.options_of(recipe))
    times = [interleaved.summary(several, batch)["median_ms"] for several in turns]
    return {"median_ms": times, "stable": paired.is_stable(times), "beside": window.end()}


def log_summary(batch: int, ratio: dict, name: str, timed: dict) -> None:
    """Log how much faster the engine is, and warn where PyTorch is faster."""
    from measure.benchmark_cache import NOT_STABLE

    level, slower = (logging.WARNING, "slower than PyTorch: ") if ratio["ratio"] < 1 else (logging.INFO, "")
    text = "%sbatch %d: %.2f (%.2f to %.2f) times as fast as PyTorch (%s)%s"
    note = ("" if timed["stable"] else f"; {NOT_STABLE}") + beside.note(timed["beside"])
    log.log(level, text, slower, batch, ratio["ratio"], ratio["low"], ratio["high"], name, note)


def command() -> Command:
    c = engine_command(__file__, __doc__, timed=True).input("--engine")
    c.input("--pytorch", help="PyTorch's engine").param("--name", required=True, help="its precision and target")
    return c.output("--comparison")


if __name__ == "__main__":
    command().run(run)
