"""Train a model on a dataset's training images: from scratch, or from other weights (fine-tuning).

Where the other weights are of another number of classes, the layers that give the classes start anew, and nothing else.
"""

import os
from contextlib import nullcontext

from core import resolved
from core.command import Command, log


def run(args):
    from core.files import UserError
    from data import index
    from model import context, parallel, training

    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    device = training.start(args.seed, args.threads, args.device)
    batch, images = args.training["batch"], index.count(listing, "train")
    if images < batch:
        raise UserError(f"training.batch {batch} is more than the {images} training images")
    processes = parallel.count(args.processes, batch, device, "training.batch")
    if processes > 1:
        parallel.launch(train, processes, args)
    else:
        train(args)
    log.info(
        "trained on %d images in %s on %s, %d processes", images, _spoken(context.fast_type(device)), device, processes
    )


def train(args):
    """Train in one of the processes; the first of them writes the checkpoint."""
    from core import progress
    from model import checkpoint, parallel, training
    from model.resume import Resume

    device = training.start(args.seed, args.threads, args.device)
    resume = Resume(args.final("checkpoint"), args.key)
    with parallel.group(device, args.threads) as (rank, processes, device):
        job, clean = setup(args, device)
        total = args.training["epochs"] * len(job.images) + len(clean)
        with progress.bar(total, f"train {job.row['timm']}") if rank == 0 else nullcontext(parallel.Silent()) as bar:
            job.run(rank, processes, resume, bar)
            if rank == 0:
                recalibrate(job, clean, args, bar)
                checkpoint.save(job.model.state_dict(), args.checkpoint)
                resume.remove()


def setup(args, device):
    """Return the job, and the training images as evaluation looks at them."""
    from data import augment, index
    from model import checkpoint, trainer, zoo

    listing, row = index.read(args.index), resolved.read(args.model, resolved.AUGMENTED)
    model = zoo.create(row, args.classes)
    if args.start:
        checkpoint.load_into(model, args.start, new_heads=True, key=args.training.get("checkpoint_key"))
    geometry = {name: row[name] for name in resolved.GEOMETRY}
    recipe = {**trainer.DEFAULTS, **args.training}
    images = augment.TrainImages(listing, args.index, geometry, recipe, args.seed)
    clean = augment.TrainImages(listing, args.index, geometry, None, args.seed)
    return trainer.Trainer(model.to(device), images, recipe, args.seed, row, device), clean


def recalibrate(job, clean, args, bar):
    """Let BatchNorm's statistics be those of the training images as evaluation looks at them."""
    from data import augment
    from model import training

    order = augment.order(len(clean), args.seed, "clean")
    batches = training.batches(clean, order, args.training["batch"], job.row, job.device)
    training.recalibrate_batchnorm(job.model, _inputs(batches, bar), job.frozen)


def _inputs(batches, bar):
    for inputs, labels in batches:
        yield inputs
        bar.update(len(labels))


def decides(args):
    """Return what of the index decides the checkpoint."""
    from data import index

    return index.relevant(args.index, "train")


def _spoken(kind):
    return "float32" if kind is None else str(kind).rpartition(".")[2]


def context(args):
    """Return what of this machine decides the weights."""
    from model import context

    return {**context.of_training(args.device, args.threads, args.processes), **started(args)}


def started(args):
    """Return which part of a file of weights training starts from, where it does."""
    from model import checkpoint

    return {"weights": checkpoint.taken(args.start, args.training.get("checkpoint_key"))} if args.start else {}


def command():
    c = Command(
        __file__, __doc__, tools=("torch", "timm", "numpy", "pillow"), heavy=True, trained=True, context=context
    )
    c.input("--index", help="index.json of the dataset", content=decides)
    c.input("--start", required=False, help="weights to fine-tune; without them, training is from scratch")
    c.model(resolved.AUGMENTED)
    c.param("--classes", type=int, required=True)
    c.json_param("--training", help="JSON of the dataset's `training` row")
    c.param("--seed", type=int, required=True)
    c.output("--checkpoint", help="state dict to write")
    c.untracked("--threads", type=int, default=0, help="CPU threads (0: all cores)")
    c.untracked("--device", default="auto", help="auto, cpu or cuda")
    wanted = int(os.environ.get("LEVIT_PROCESSES") or 0)
    return c.untracked(
        "--processes", type=int, default=wanted, help="sharing each batch; 0: one a GPU ($LEVIT_PROCESSES)"
    )


if __name__ == "__main__":
    command().run(run)
