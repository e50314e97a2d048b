"""Export a checkpoint's folded network with torch.export: a .pt2 archive with a dynamic batch, which PyTorch runs."""

from core import resolved
from core.command import Command, Job, log
from core.files import UserError

MAX_ERROR = 1e-4  # of logits against the trained module, relative to the largest logit


def run(args: Job) -> None:
    import torch

    from model import checkpoint, deploy, equivalence, zoo
    from runtimes import _program

    row = resolved.read(args.model, resolved.VISION)
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint).eval()
    images = equivalence.images(args.images, row)
    exported = _program.export(deploy.fold(model, images), row["size"])
    with torch.no_grad():
        for count in (1, 3):
            part = images[:count]
            expected, got = model(part), exported.module()(part)
            error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
            log.info("batch %d: logits within %.1e of the checkpoint's", count, error)
            if not error <= MAX_ERROR:
                raise UserError(f"the exported program's logits are off by {error:.1e} (at most {MAX_ERROR:.0e})")
    with open(args.program, "wb") as stream:
        stream.write(_program.serialize(exported))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm"))
    c.input("--checkpoint").input("--images", help=".u8 of a split, on which folding is checked")
    return c.model(resolved.VISION).param("--classes", type=int, required=True).output("--program")


if __name__ == "__main__":
    command().run(run)
