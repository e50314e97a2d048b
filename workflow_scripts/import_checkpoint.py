"""Take a user's own weights as a model's checkpoint: they must fit it exactly, and are then copied as they are."""

import shutil

from core import resolved
from core.command import Command


def run(args):
    from model import checkpoint, zoo

    row = resolved.read(args.model, resolved.NETWORK)
    checkpoint.load_into(zoo.create(row, args.classes), args.source, key=args.part)
    if checkpoint.taken(args.source, args.part) == checkpoint.taken(args.source):
        shutil.copyfile(args.source, args.checkpoint)
    else:  # whoever reads a copy would take another part
        checkpoint.save(checkpoint.read(args.source, args.part), args.checkpoint)


def context(args):
    """Return which part of the user's file is taken: None where it is one state dict."""
    from model import checkpoint

    return {"weights": checkpoint.taken(args.source, args.part)}


def command():
    c = Command(__file__, __doc__, tools=("torch", "timm"), context=context)
    c.input(
        "--source",
        foreign=True,
        help="state dict, bare or under `model` or `state_dict`, with timm's or the original names",
    )
    c.model(resolved.NETWORK)
    c.param("--classes", type=int, required=True)
    c.param("--part", help="which state dict of the file is taken, where it has several")
    c.output("--checkpoint", help="file to write")
    return c


if __name__ == "__main__":
    command().run(run)
