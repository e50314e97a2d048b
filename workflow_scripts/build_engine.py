"""Build an engine file with a runtime, and describe what it is: its layers, what they compute in, how long it took.

The recipe is {"compute", "high_precision"?, "batches", "threads"?, "compute_capabilities"?}; the identity is what
`probe.identity` or results/targets/ says of the target, and must be of the runtime that is installed here.
"""

from cli import Command, log


def produce(args):
    import runtimes
    from files import UserError, write_json

    runtime = runtimes.load(args.runtime)
    here = runtime.fingerprint()
    check_identity(args.identity, here)
    if not args.recipe.get("batches") or min(args.recipe["batches"]) < 1:
        raise UserError(f"the recipe's batches are {args.recipe.get('batches')}: a list of positive numbers is needed")
    described = runtime.build(args.onnx, args.recipe, None, args.engine)
    for warning in described["warnings"]:
        log.info("warning: %s", warning)
    write_json(args.description, {"runtime": args.runtime, "recipe": args.recipe, **described})
    log.info(
        "%s layers %s in %.1f s", described["layer_count"], described["precision_of_layers"], described["build_seconds"]
    )


def check_identity(identity, here):
    """Raise UserError where the identity that decided this job is not that of this machine's runtime and processor."""
    from files import UserError

    for key in ("runtime", "version", "architecture"):
        if identity is None or identity.get(key) != here[key]:
            expected = identity and identity.get(key)
            raise UserError(f"the target's {key} is {expected}, and here it is {here[key]}: build it on the target")


def command():
    c = Command(__file__, __doc__, heavy=True, modules=lambda args: [f"runtimes/{args.runtime}.py"])
    c.input("--onnx").param("--runtime", required=True, help="a file of runtimes/")
    c.recipe("--recipe", help="JSON").recipe("--identity", help="JSON")
    return c.output("--engine").output("--description")


if __name__ == "__main__":
    command().run(produce)
