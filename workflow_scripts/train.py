"""Train a model on a dataset's training images, from scratch or from other weights (fine-tuning).

If the other weights have another number of classes, the classifiers alone start from random weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core import progress, resolved
from core.command import Command, Job, log
from data import index

if TYPE_CHECKING:
    import torch

    from data import augment
    from model.trainer import Trainer


def run(args: Job) -> None:
    from model import context, parallel

    images, device, processes = parallel.run(train, args, args.training["batch"], "training.batch")
    dtype = str(context.fast_type(device) or "torch.float32").rpartition(".")[2]
    log.info("trained on %d images in %s on %s, %d processes", images, dtype, device, processes)


def train(args: Job) -> None:
    """Train in one of the processes; rank 0 writes the checkpoint."""
    from model import checkpoint, parallel, training
    from model.resume import Resume

    device = training.start(args.seed, args.threads, args.device)
    resume = Resume(args.final("checkpoint"), args.key)
    with parallel.group(device, args.threads) as (rank, processes, device):
        trainer, clean = setup(args, device)
        total = args.training["epochs"] * len(trainer.images) + len(clean)
        with progress.bar(total, f"train {trainer.row['timm']}", disable=rank > 0) as bar:
            trainer.run(rank, processes, resume, bar)
            if rank == 0:
                recalibrate(trainer, clean, args, bar)
                checkpoint.save(trainer.model.state_dict(), args.checkpoint)
                resume.remove()


def setup(args: Job, device: torch.device) -> tuple[Trainer, augment.TrainImages]:
    """Return the trainer, and the training images under evaluation preprocessing."""
    from data import augment
    from model import checkpoint, zoo
    from model.trainer import DEFAULTS, Trainer

    listing, row = index.read(args.index), resolved.read(args.model, resolved.AUGMENTED)
    model = zoo.create(row, args.classes)
    if args.start:
        checkpoint.load_into(model, args.start, new_heads=True, key=args.training.get("checkpoint_key"))
    geometry = {name: row[name] for name in resolved.GEOMETRY}
    recipe = {**DEFAULTS, **args.training}
    images = augment.TrainImages(listing, args.index, geometry, recipe, args.seed)
    clean = augment.TrainImages(listing, args.index, geometry, None, args.seed)
    return Trainer(model.to(device), images, recipe, args.seed, row, device), clean


def recalibrate(trainer: Trainer, clean: augment.TrainImages, args: Job, bar: Any) -> None:
    """Re-estimate BatchNorm statistics under evaluation preprocessing."""
    from data import augment
    from model import training

    order = augment.order(len(clean), args.seed, "clean")
    batches = training.batches(clean, order, args.training["batch"], trainer.row, trainer.device)
    training.recalibrate_batchnorm(trainer.model, _inputs(batches, bar), trainer.frozen)


def _inputs(batches, bar):
    for inputs, labels in batches:
        yield inputs
        bar.update(len(labels))


def context(args: Job) -> dict:
    """Return the properties of this machine that the weights depend on."""
    from model import context

    return {**context.of_training(args.device, args.threads, args.processes), **start_part(args)}


def start_part(args: Job) -> dict:
    """Return the key of the state dict that fine-tuning starts from; {} when training from scratch."""
    from model import checkpoint

    return {"weights": checkpoint.part_of(args.start, args.training.get("checkpoint_key"))} if args.start else {}


def command() -> Command:
    c = Command(
        __file__, __doc__, tools=("torch", "timm", "numpy", "pillow"), heavy=True, trained=True, context=context
    )
    c.input("--index", help="index.json of the dataset", content=lambda args: index.relevant(args.index, "train"))
    c.input("--start", required=False, help="weights to fine-tune; without them, training is from scratch")
    c.training().json_param("--training", help="JSON of the dataset's `training` row")
    return c.output("--checkpoint", help="state dict to write")


if __name__ == "__main__":
    command().run(run)
