"""Export a checkpoint to ONNX: BatchNorm and attention scale folded, heads averaged, dynamic batch size."""

from core import resolved
from core.command import Command, Job, log
from core.files import UserError

MAX_ERROR = 1e-4  # of logits against the trained module, relative to the largest logit


def run(args: Job) -> None:
    import onnx

    from model import checkpoint, deploy, equivalence, export, zoo

    row = resolved.read(args.model, resolved.VISION)
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    exported = export.to_onnx(deploy.fold(model, equivalence.images(args.images, row)), row["size"])
    onnx.checker.check_model(exported, full_check=True)
    _prove(model, exported, row["size"])
    with open(args.onnx, "wb") as stream:
        stream.write(exported.SerializeToString(deterministic=True))
    log.info("exported %d nodes", sum(n.op_type != "Constant" for n in exported.graph.node))


def _prove(model, exported, size):
    """Raise UserError if ONNX Runtime's logits differ from the trained module's."""
    import numpy as np
    import torch

    from graph import onnx_io

    session = onnx_io.runner(exported)
    for batch in (1, 3):
        images = np.random.default_rng(batch).standard_normal((batch, 3, size, size), dtype=np.float32)
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(images)).numpy()
        got = session.run(None, {onnx_io.INPUT: images})[0]
        error = float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-6))
        log.info("batch %d: logits within %.1e of PyTorch", batch, error)
        if not error <= MAX_ERROR:
            raise UserError(
                f"the exported graph's logits are off by {error:.1e} (at most {MAX_ERROR:.0e}) at batch {batch}"
            )


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm", "onnx"))
    c.input("--checkpoint").input("--images", help=".u8 of a split, on which folding is checked")
    return c.model(resolved.VISION).param("--classes", type=int, required=True).output("--onnx")


if __name__ == "__main__":
    command().run(run)
