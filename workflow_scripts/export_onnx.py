"""Export a checkpoint to ONNX: BatchNorm and attention scale folded, heads averaged, dynamic batch size."""

from core import resolved
from core.command import Command, Job, log


def run(args: Job) -> None:
    import onnx
    import torch

    from graph import onnx_io
    from model import checkpoint, deploy, equivalence, export, zoo

    row = resolved.read(args.model, resolved.VISION)
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    images = equivalence.images(args.images, row)
    exported = export.to_onnx(deploy.fold(model, images), row["size"])
    onnx.checker.check_model(exported, full_check=True)
    session = onnx_io.runner(exported)

    def logits(part):
        return torch.from_numpy(session.run(None, {onnx_io.INPUT: part.numpy()})[0])

    equivalence.check_exported("the exported graph", model, images, logits)
    with open(args.onnx, "wb") as stream:
        stream.write(exported.SerializeToString(deterministic=True))
    log.info("exported %d nodes", sum(n.op_type != "Constant" for n in exported.graph.node))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm", "onnx"))
    c.input("--checkpoint").input("--images", help=".u8 of a split, on which folding is checked")
    return c.model(resolved.VISION).param("--classes", type=int, required=True).output("--onnx")


if __name__ == "__main__":
    command().run(run)
