"""Build an engine file with a runtime, and describe what it is: its layers, what they compute in, how long it took.

Where there is a plan of precisions, the engine is scored on the select split, and built once more by a grown plan where
it misses the plan's criterion. The recipe is {"compute", "high_precision"?, "batches", ...}: what the runtime's `build`
reads of it; the identity is what `probe.identity` or results/targets/ says of the target, and must be of the runtime
and device that are here.
"""

import json

from core import resolved
from core.command import Command, Job, engine_command, log
from core.files import UserError, sha256_file, write_json

REQUIRED = ("runtime", "version", "architecture")  # of an identity; its other facts are compared where it has them


def run(args: Job) -> None:
    import runtimes

    runtime = runtimes.load(args.runtime)
    here = runtime.fingerprint()
    check_identity(args.identity, here)
    if not args.recipe.get("batches") or min(args.recipe["batches"]) < 1:
        raise UserError(f"the recipe's batches are {args.recipe.get('batches')}: a list of positive numbers is needed")
    described = build(runtime, args)
    for warning in described["warnings"]:
        log.info("warning: %s", warning)
    write_json(args.description, {"runtime": args.runtime, "recipe": args.recipe, **described})
    log.info(
        "%s layers %s in %.1f s", described["layer_count"], described["precision_of_layers"], described["build_seconds"]
    )


def build(runtime, args):
    """Return the description of the engine that a runtime builds; with a plan, it is held to it on the select split."""
    from devices import probe
    from planning import verify

    more = {"calibration": args.cache} if args.cache else {}
    if not args.plan:
        return runtime.build(args.onnx, args.recipe, None, args.engine, **more)
    select = verify.select_of(*args.select, resolved.read(args.model, resolved.NORMALIZATION))
    typed, unreachable = args.verification["typed"], probe.unreachable({"runtime": args.runtime}, "run")
    return verify.build(runtime, args.onnx, args.recipe, args.plan, args.engine, select, typed, unreachable, **more)


def check_identity(identity, here):
    """Raise UserError where the identity that decided this job is not that of this machine's runtime and processor."""
    for key in ("runtime", "version", "architecture", "compute_capability", "driver"):
        expected, found = identity and identity.get(key), here.get(key)
        if expected != found and (expected is not None or key in REQUIRED):
            raise UserError(f"the target's {key} is {expected}, and here it is {found}: build it on the target")


def selected(args):
    """Return what of the select split's files decides the engine: of the index, not every byte."""
    from data import index

    images, listing, reference = args.select
    return [sha256_file(images), index.relevant(listing, "select"), sha256_file(reference)]


def command() -> Command:
    c = engine_command(__file__, __doc__, heavy=True).input("--onnx")
    c.input("--cache", nargs="?", required=False, help="TensorRT calibration cache, for INT8 without Q/DQ")
    c.input("--plan", nargs="?", required=False, help="nodes that keep a higher precision, and what is to be met")
    files = "where there is a plan: the select split's .u8, index and .npy of FP32's logits"
    c.input("--select", nargs="*", help=files, content=selected)
    c.param("--verification", type=json.loads, default=None, help="JSON: typed")
    c.model(resolved.NORMALIZATION, nargs="?", required=False)
    return c.output("--engine").output("--description")


if __name__ == "__main__":
    command().run(run)
