"""Build an engine file with a runtime, and describe what it is: its layers, what they compute in, how long it took.

The recipe is {"compute", "high_precision"?, "batches", ...}: what the runtime's `build` reads of it; the identity is
what `probe.identity` or results/targets/ says of the target, and must be of the runtime and device that are here.
"""

from cli import Command, log

REQUIRED = ("runtime", "version", "architecture")  # of an identity; its other facts are compared where it has them


def produce(args):
    import runtimes
    from files import UserError, write_json

    runtime = runtimes.load(args.runtime)
    here = runtime.fingerprint()
    check_identity(args.identity, here)
    if not args.recipe.get("batches") or min(args.recipe["batches"]) < 1:
        raise UserError(f"the recipe's batches are {args.recipe.get('batches')}: a list of positive numbers is needed")
    more = {"calibration": args.cache} if args.cache else {}
    described = runtime.build(args.onnx, args.recipe, None, args.engine, **more)
    for warning in described["warnings"]:
        log.info("warning: %s", warning)
    write_json(args.description, {"runtime": args.runtime, "recipe": args.recipe, **described})
    log.info(
        "%s layers %s in %.1f s", described["layer_count"], described["precision_of_layers"], described["build_seconds"]
    )


def check_identity(identity, here):
    """Raise UserError where the identity that decided this job is not that of this machine's runtime and processor."""
    from files import UserError

    for key in ("runtime", "version", "architecture", "compute_capability", "driver"):
        expected, found = identity and identity.get(key), here.get(key)
        if expected != found and (expected is not None or key in REQUIRED):
            raise UserError(f"the target's {key} is {expected}, and here it is {found}: build it on the target")


def command():
    c = Command(__file__, __doc__, heavy=True, modules=lambda args: [f"runtimes/{args.runtime}.py"])
    c.input("--onnx").param("--runtime", required=True, help="a file of runtimes/")
    c.input("--cache", nargs="?", required=False, help="TensorRT calibration cache, for INT8 without Q/DQ")
    c.recipe("--recipe", help="JSON").recipe("--identity", help="JSON")
    return c.output("--engine").output("--description")


if __name__ == "__main__":
    command().run(produce)
