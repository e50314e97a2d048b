"""Score the PyTorch FP32 network on a split: the reference for the accuracy of engines and plans."""

from core import progress, resolved
from core.command import Command, Job, log
from core.files import write_json

BATCH = 32


def run(args: Job) -> None:
    import numpy as np
    import torch

    from data import cache, index, preprocess
    from measure import accuracy
    from model import checkpoint, training, zoo

    training.start(0, args.threads, "cpu")
    row = resolved.read(args.model, resolved.VISION)
    listing = index.read(args.index)
    labels = index.labels(listing, args.split)
    images = cache.read(args.images, len(labels))
    model = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint).eval()
    logits = np.empty((len(images), args.classes), dtype=np.float32)
    with progress.bar(len(images), "PyTorch FP32") as bar, torch.no_grad():
        for start, pixels in cache.batches(images, BATCH):
            batch = preprocess.normalize(pixels, row["mean"], row["std"])
            logits[start : start + len(batch)] = model(torch.from_numpy(batch)).numpy()
            bar.update(len(batch))
    accuracy.check_finite(logits, args.checkpoint, index.files(listing, args.index, args.split))
    scores = accuracy.score(logits, labels, logits)
    with open(args.logits, "wb") as stream:
        np.save(stream, logits)
    write_json(args.accuracy, {"split": args.split, **scores})
    log.info("top-1 %.2f %% of %d images", scores["top1"], len(images))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm", "numpy"))
    c.input("--checkpoint").input("--images", help="preprocessed split (.u8)").input("--index")
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.param("--split", required=True)
    c.output("--accuracy").output("--logits", help=".npy of float32 [N, classes]")
    return c.untracked("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(run)
