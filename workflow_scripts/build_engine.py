"""Build an engine file with a runtime, and describe it: its layers, their precisions, the build time.

An engine with a mixed-precision plan is scored on the select split, and built once more by a larger plan if it misses
the plan's criterion. The recipe is {"compute", "high_precision"?, "batches", ...}, as the runtime's `build` reads it.
The identity is that of the target (`probe.identity` or results/targets/), and must match the runtime and device here.
"""

from __future__ import annotations

import json
import os
from typing import Any

from core import resolved
from core.command import Command, Job, engine_command, log
from core.files import UserError, sha256_file, write_json
from devices import probe

REQUIRED = ("runtime", "version", "architecture")  # keys of an identity; the others are compared if present


def run(args: Job) -> None:
    import runtimes

    runtime = runtimes.load(args.runtime, args.plugin)
    here = runtimes.fingerprint(runtime, args.recipe)
    check_identity(args.identity, here)
    if not args.recipe.get("batches") or min(args.recipe["batches"]) < 1:
        raise UserError(f"the recipe's batches are {args.recipe.get('batches')}: a list of positive numbers is needed")
    described = build(runtime, args)
    for warning in described["warnings"]:
        log.warning("%s", warning)
    plugin = sha256_file(args.plugin) if is_fused(args) else None
    facts = {"runtime": args.runtime, "recipe": args.recipe, "plugin": plugin, "machine": probe.machine()}
    write_json(args.description, {**facts, **described})
    log.info("%(layer_count)s layers %(precision_of_layers)s in %(build_seconds).1f s", described)


def is_fused(args: Job) -> bool:
    """Return whether the target has the plugin, and the graph whose attention it computes."""
    return bool(args.plugin and args.fused and os.path.getsize(args.plugin))


def build(runtime: Any, args: Job) -> dict:
    """Build the engine, checking it on the select split if there is a plan, and return its description."""
    from planning import verify

    more, graph = {"calibration": args.cache} if args.cache else {}, args.fused if is_fused(args) else args.onnx
    if not args.plan:
        return runtime.build(graph, args.recipe, None, args.engine, **more)
    images, listing, reference = args.select
    select = verify.select_of(images, listing, reference, resolved.read(args.model, resolved.NORMALIZATION))
    typed, unreachable = args.verification["typed"], probe.unreachable({"runtime": args.runtime}, "run")
    return verify.build(runtime, graph, args.recipe, args.plan, args.engine, select, typed, unreachable, **more)


def check_identity(identity: dict | None, here: dict) -> None:
    """Raise UserError if the identity in the job's arguments is not that of this machine's runtime and processor."""
    for key in ("runtime", "version", "architecture", "compute_capability", "driver"):
        expected, actual = identity and identity.get(key), here.get(key)
        if expected != actual and (expected is not None or key in REQUIRED):
            raise UserError(f"the target's {key} is {expected}, and here it is {actual}: build it on the target")


def selected(args: Job) -> list:
    """Return the part of the select split's files that decides the engine: of the index, not every byte."""
    from data import index

    images, listing, reference = args.select
    return [sha256_file(images), index.relevant(listing, "select"), sha256_file(reference)]


def command() -> Command:
    c = engine_command(__file__, __doc__, heavy=True, timed=True).input("--onnx")
    c.input("--fused", nargs="?", required=False, help="the graph with the plugin's nodes, taken where there is one")
    c.input("--cache", nargs="?", required=False, help="TensorRT calibration cache, for INT8 without Q/DQ")
    c.input("--plan", nargs="?", required=False, help="nodes that keep a higher precision, and the criterion")
    files = "with a plan: .u8 of the select split, index, .npy of FP32 logits"
    c.input("--select", nargs="*", help=files, content=selected)
    c.param("--verification", type=json.loads, default=None, help="JSON: typed")
    c.model(resolved.NORMALIZATION, nargs="?", required=False)
    return c.output("--engine").output("--description")


if __name__ == "__main__":
    command().run(run)
