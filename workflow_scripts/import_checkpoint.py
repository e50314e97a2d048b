"""Use a user's own weights as a model's checkpoint: check that they fit exactly, then copy the file."""

import shutil

from core import resolved
from core.command import Command, Job


def run(args: Job) -> None:
    """Write the checkpoint; raise UserError if the weights do not fit."""
    from model import checkpoint, zoo

    row = resolved.read(args.model, resolved.NETWORK)
    checkpoint.load_into(zoo.create(row, args.classes), args.source, key=args.part)
    if checkpoint.part_of(args.source, args.part) == checkpoint.part_of(args.source):
        shutil.copyfile(args.source, args.checkpoint)
    else:  # readers of a copy would use another state dict
        checkpoint.save(checkpoint.read(args.source, args.part), args.checkpoint)


def context(args: Job) -> dict:
    """Return the key of the state dict that is used, or None if the file is a bare one."""
    from model import checkpoint

    return {"weights": checkpoint.part_of(args.source, args.part)}


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm"), context=context)
    known = "state dict, bare or under `model` or `state_dict`, with timm's or the original names"
    c.input("--source", foreign=True, help=known)
    c.model(resolved.NETWORK).param("--classes", type=int, required=True)
    c.param("--part", help="the state dict to use, if the file has several")
    return c.output("--checkpoint", help="file to write")


if __name__ == "__main__":
    command().run(run)
