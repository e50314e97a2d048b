"""Time each layer of an engine at each batch size, apart from benchmark.py, since profiling slows queries down.

The recipe is {"batches", "threads"?}. The `share` of a layer is of the sum of all layers. A query takes longer than
this sum if there are gaps between layers, and less if layers run concurrently.
"""

from __future__ import annotations

from core.command import Command, Job, engine_command, log
from core.files import UserError, sha256_file, write_json

SHOWN = 10  # slowest layers in the log


def run(args: Job) -> None:
    import runtimes

    runtime, threads = runtimes.load(args.runtime, args.plugin), args.recipe.get("threads", 0)
    profiles = [profile(batch, runtime.profile(args.engine, batch, threads)) for batch in args.recipe["batches"]]
    for entry in profiles:
        log_summary(entry)
    write_json(args.profile, {"engine_sha256": sha256_file(args.engine), "profile": profiles})


def profile(batch: int, layers: list[dict]) -> dict:
    """Return the layers of a batch size in order of execution, with their shares, and sums in milliseconds."""
    total = sum(layer["ms"] for layer in layers)
    if not total > 0:
        raise UserError(f"the runtime reports no time for any of the {len(layers)} layers at batch {batch}")
    return {
        "batch": batch,
        "total_ms": total,
        "ms_by_precision": sums(layers, "precision"),
        "ms_by_type": sums(layers, "type"),
        "layers": [{**layer, "share": layer["ms"] / total} for layer in layers],
    }


def sums(layers: list[dict], key: str) -> dict[str, float]:
    """Return {value of a key: milliseconds of the layers that have it}."""
    values = dict.fromkeys(layer[key] for layer in layers)
    return {value: sum(layer["ms"] for layer in layers if layer[key] == value) for value in values}


def log_summary(entry: dict) -> None:
    """Log the sums and a table of the slowest layers."""
    slowest = sorted(entry["layers"], key=lambda layer: (-layer["ms"], layer["name"]))[:SHOWN]
    parts = ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(entry["ms_by_precision"].items()))
    figures = entry["batch"], len(entry["layers"]), entry["total_ms"], parts
    log.info("batch %d: %d layers in %.3f ms (%s); the slowest:", *figures)
    width = max(len(layer["type"]) for layer in slowest)
    for layer in slowest:
        row = layer["ms"], 100 * layer["share"], layer["precision"], width, layer["type"], layer["name"]
        log.info("%9.4f ms %5.1f %%  %-7s  %-*s  %s", *row)


def command() -> Command:
    return engine_command(__file__, __doc__, timed=True).input("--engine").output("--profile")


if __name__ == "__main__":
    command().run(run)
