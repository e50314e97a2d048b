"""Time each layer of an engine, per batch size, in a run of its own: asking for layers' times slows a query down.

The recipe is {"batches", "threads"?}. Each layer's `share` is of the sum of all layers; a query takes longer than that
where there are gaps between them, and less where some run at the same time.
"""

from collections import Counter

from core.command import Command, Job, engine_command, log
from core.files import UserError, sha256_file, write_json

SHOWN = 10  # layers in the log, the slowest


def run(args: Job) -> None:
    import runtimes

    runtime, threads = runtimes.load(args.runtime), args.recipe.get("threads", 0)
    profiles = [profile(batch, runtime.profile(args.engine, batch, threads)) for batch in args.recipe["batches"]]
    for found in profiles:
        tell(found)
    write_json(args.profile, {"engine_sha256": sha256_file(args.engine), "profile": profiles})


def profile(batch, layers):
    """Return one batch size's layers in order of execution with their shares, and sums in milliseconds."""
    total = sum(layer["ms"] for layer in layers)
    if not total > 0:
        raise UserError(f"the runtime tells no time of any of the {len(layers)} layers at batch {batch}")
    return {
        "batch": batch,
        "total_ms": total,
        "ms_by_precision": sums(layers, "precision"),
        "ms_by_type": sums(layers, "type"),
        "layers": [{**layer, "share": layer["ms"] / total} for layer in layers],
    }


def sums(layers, key):
    """Return {value of a key: milliseconds of the layers that have it}."""
    found = Counter()
    for layer in layers:
        found[layer[key]] += layer["ms"]
    return dict(found)


def tell(found):
    """Log the sums and a table of the slowest layers."""
    slowest = sorted(found["layers"], key=lambda layer: (-layer["ms"], layer["name"]))[:SHOWN]
    parts = ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(found["ms_by_precision"].items()))
    figures = found["batch"], len(found["layers"]), found["total_ms"], parts
    log.info("batch %d: %d layers in %.3f ms (%s); the slowest:", *figures)
    width = max(len(layer["type"]) for layer in slowest)
    for layer in slowest:
        row = layer["ms"], 100 * layer["share"], layer["precision"], width, layer["type"], layer["name"]
        log.info("%9.4f ms %5.1f %%  %-7s  %-*s  %s", *row)


def command() -> Command:
    return engine_command(__file__, __doc__).input("--engine").output("--profile")


if __name__ == "__main__":
    command().run(run)
