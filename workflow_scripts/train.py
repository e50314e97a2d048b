"""Train a model on a dataset's training images, from scratch or from other weights (fine-tuning).

If the other weights have another number of classes, the classifiers alone start from random weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import progress, resolved
from core.command import Command, Job, log
from data import index

if TYPE_CHECKING:
    import torch

    from model.trainer import Trainer


def run(args: Job) -> None:
    from model import parallel

    log.info("trained on %s", parallel.run(train, args, args.training, "training", "checkpoint"))


def train(args: Job) -> None:
    """Train in one of the processes; rank 0 writes the checkpoint."""
    from model import checkpoint, parallel, training

    device, resume = training.start(args.seed, args.threads, args.device), parallel.resume_of(args, "checkpoint")
    with parallel.group(device, args.threads) as (rank, processes, device):
        trainer = setup(args, device)
        total = (args.training["epochs"] + 1) * len(trainer.images)  # the last time for BatchNorm
        with progress.bar(total, f"train {trainer.row['timm']}", disable=rank > 0) as bar:
            trainer.run(rank, processes, resume, bar)
            if rank == 0:
                checkpoint.save(trainer.model.state_dict(), args.checkpoint)
                resume.remove()


def setup(args: Job, device: torch.device) -> Trainer:
    """Return the trainer."""
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
    return Trainer(model.to(device), images, recipe, row)


def context(args: Job) -> dict:
    """Return the properties of this machine that the weights depend on."""
    from model import context

    return {**context.of_training(args, args.training), **start_part(args)}


def start_part(args: Job) -> dict:
    """Return the key of the state dict that fine-tuning starts from; {} when training from scratch."""
    from model import checkpoint

    return {"weights": checkpoint.part_of(args.start, args.training.get("checkpoint_key"))} if args.start else {}


def command() -> Command:
    tools = ("torch", "timm", "numpy", "pillow")
    c = Command(__file__, __doc__, tools=tools, heavy=True, trained=True, context=context)
    c.input("--index", help="index.json of the dataset", content=lambda args: index.relevant(args.index, "train"))
    c.input("--start", required=False, help="weights to fine-tune; without them, training is from scratch")
    c.training().json_param("--training", help="JSON of the dataset's `training` row")
    return c.output("--checkpoint", help="state dict to write")


if __name__ == "__main__":
    command().run(run)
