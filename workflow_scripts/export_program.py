"""Export a checkpoint's folded network with torch.export: a .pt2 archive with a dynamic batch, which PyTorch runs."""

from core import resolved
from core.command import Command, Job


def run(args: Job) -> None:
    from model import checkpoint, deploy, equivalence, zoo
    from runtimes import _program

    row = resolved.read(args.model, resolved.VISION)
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    images = equivalence.images(args.images, row)
    exported = _program.export(deploy.fold(model, images), row["size"])
    equivalence.check_exported("the exported program", model, images, exported.module())
    with open(args.program, "wb") as stream:
        stream.write(_program.serialize(exported))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm"))
    c.input("--checkpoint").input("--images", help=".u8 of a split, on which folding is checked")
    return c.model(resolved.VISION).param("--classes", type=int, required=True).output("--program")


if __name__ == "__main__":
    command().run(run)
