"""Time an engine and PyTorch's of the same model in turns, round by round in one job, each in its own process.

The recipe is benchmark.py's. A ratio is of each round's medians (measure/paired.py), above 1 where the engine is faster
than PyTorch; it is stable if it is known to 2.5 %.
"""

from __future__ import annotations

import contextlib
import functools
import logging

from core.command import Command, Job, engine_command, log
from core.files import sha256_file, write_json
from measure import beside, paired
from measure.benchmark_cache import NOT_STABLE, BenchmarkCache

RUNTIME = "pytorch"


def run(args: Job) -> None:
    import runtimes
    from measure.interleaved import EngineProcess

    runtimes.load(args.runtime, args.plugin)  # the engines' processes load it as well
    threads, hashes = args.recipe.get("threads", 0), [sha256_file(path) for path in (args.engine, args.pytorch)]
    scripts = ("compare_pytorch.py", f"runtimes/{args.runtime}.py", f"runtimes/{RUNTIME}.py")
    cache, entries = BenchmarkCache.of(args, "comparison", *scripts, engines=hashes), []
    with contextlib.ExitStack() as processes:
        both = (args.runtime, args.engine), (RUNTIME, args.pytorch)
        started = (EngineProcess(runtime, engine, threads) for runtime, engine in both)
        pair = [processes.enter_context(contextlib.closing(process)) for process in started]
        facts = {"running": [engine.facts for engine in pair]}
        for batch in args.recipe["batches"]:
            timing = functools.partial(take, batch, pair, args.recipe)
            timed = cache.in_mode(pair[0].facts["on_gpu"], args.recipe, timing, batch=batch, **facts)
            ratio = paired.speed_ratio(*timed["median_ms"])
            log_summary(batch, ratio, args.name, timed)
            entries.append({"batch": batch, **ratio, "slower": ratio["ratio"] < 1, **timed})
    more = {"pytorch": args.name, "pytorch_sha256": hashes[1]}
    write_json(args.comparison, {"engine_sha256": hashes[0], **more, "batches": entries})


def take(batch: int, pair: list, recipe: dict) -> dict:
    """Time a batch size in turns: return each round's milliseconds, whether their ratio is stable, what ran beside."""
    from measure import interleaved

    summaries, ran = interleaved.summaries([(engine, batch) for engine in pair], recipe)
    times = [each["median_ms"] for each in summaries]
    return {"median_ms": times, "stable": paired.is_stable(times), "beside": ran}


def log_summary(batch: int, ratio: dict, name: str, timed: dict) -> None:
    """Log how much faster the engine is, and warn where PyTorch is faster."""
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
