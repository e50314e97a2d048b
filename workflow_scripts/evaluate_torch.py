"""Score the PyTorch FP32 network on a split: the reference for the accuracy of engines and plans."""

from types import SimpleNamespace

from core import resolved
from core.command import Command, Job, log
from core.files import write_json


def run(args: Job) -> None:
    import numpy as np
    import torch

    from data import cache, index
    from measure import accuracy
    from measure.logits import logits_of
    from model import checkpoint, training, zoo

    training.start(0, args.threads, "cpu")
    row = resolved.read(args.model, resolved.VISION)
    listing = index.read(args.index)
    labels = index.labels(listing, args.split)
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint).eval()

    @torch.no_grad()
    def run_batch(images):
        return model(torch.from_numpy(images)).numpy()

    session = SimpleNamespace(run=run_batch, batches=None, dtype=np.float32)
    logits = logits_of(session, "PyTorch FP32", cache.read(args.images, len(labels)), row)
    accuracy.check_finite(logits, args.checkpoint, index.files(listing, args.index, args.split))
    scores = accuracy.score(logits, labels, logits)
    with open(args.logits, "wb") as stream:
        np.save(stream, logits)
    write_json(args.accuracy, {"split": args.split, **scores})
    log.info("top-1 %.2f %% of %d images", scores["top1"], len(labels))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm", "numpy"))
    c.input("--checkpoint").input("--images", help="preprocessed split (.u8)").input("--index")
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.param("--split", required=True)
    c.output("--accuracy").output("--logits", help=".npy of float32 [N, classes]")
    return c.untracked("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(run)
