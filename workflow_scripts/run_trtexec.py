"""Time an engine with NVIDIA's trtexec, where that is installed, as benchmark.py times it: a check of our own timing.

The recipe is benchmark.py's. Where trtexec is not installed the file says so, and has no timing.
"""

import functools

from core.command import Command, Job, engine_command, log
from core.files import sha256_file, write_json

LATENCIES = ("latency", "compute", "h2d", "d2h", "enqueue")


def run(args: Job) -> None:
    from measure import trtexec

    tool = trtexec.find((args.identity or {}).get("version"))
    found = {"installed": bool(tool), "engine_sha256": sha256_file(args.engine), "version": None, "trtexec": []}
    if tool:
        log.info("%s of TensorRT %s", tool.program, tool.version)
        found.update(version=tool.version, trtexec=list(entries(tool, args, found["engine_sha256"])))
    else:
        log.info("trtexec is not installed here (neither on PATH nor %s): nothing is compared", trtexec.PACKAGED)
    write_json(args.trtexec, found)


def entries(tool, args, digest):
    """Yield the timing of each batch that this trtexec can run: kept, or taken now."""
    from measure.benchmark_cache import BenchmarkCache
    from measure.meters import meter_of

    common = {key: value for key, value in args.recipe.items() if key != "batches"}
    facts = {"engine": digest, "identity": args.identity, "trtexec": tool.version, "recipe": common}
    cache = BenchmarkCache(("run_trtexec.py",), args.final("trtexec"), **facts)
    for batch, shapes, profile in queries(args.runtime, args.engine, args.recipe["batches"]):
        if tool.serves(profile):
            take = functools.partial(entry, batch, tool, (args.engine, shapes, profile, args.recipe))
            found = cache.get(take, batch=batch, power_mode=meter_of(True).power_mode())
            tell(found)
            yield found
        else:
            log.info("batch %d: not timed, because this trtexec runs an engine's first profile alone", batch)


def queries(runtime, engine, batches):
    """Return [(batch, shapes as trtexec wants them, number of the optimization profile)] of an engine.

    An engine that has one batch alone is given no shapes: they are None.
    """
    import runtimes

    session = runtimes.load(runtime).load(engine)
    name, shape = next(iter(session.inputs.items()))
    texts = {batch: "x".join(str(size) for size in [batch, *list(shape)[1:]]) for batch in batches}
    given = {batch: f"{name}:{text}" if shape[0] < 0 else None for batch, text in texts.items()}
    return [(batch, shapes, session.optimization_profile(batch)) for batch, shapes in given.items()]


def entry(batch, tool, query):
    """Return one batch size's timing, taken now, with the summaries that a benchmark has."""
    from measure import stats

    times = tool.time(*query)
    count, summaries = len(times.latency), {f"{name}_ms": stats.summary(getattr(times, name)) for name in LATENCIES}
    steady = stats.is_stable(list(times.latency))
    return {"batch": batch, "throughput_qps": count / times.wall, **summaries, "iterations": count, "stable": steady}


def tell(found):
    """Log a timing in a line."""
    figures = found["batch"], found["compute_ms"]["median"], found["compute_ms"]["p99"], found["iterations"]
    log.info("batch %d: trtexec's compute: median %.3f ms, p99 %.3f ms, %d queries", *figures)


def command() -> Command:
    return engine_command(__file__, __doc__).input("--engine").output("--trtexec")


if __name__ == "__main__":
    command().run(run)
