"""Quantization-aware training: the quantized network learns the FP32 network's logits and block outputs."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING

from core import progress, resolved
from core.command import Command, Job, log
from core.files import UserError, read_json

if TYPE_CHECKING:
    import torch

    from quantization.qat import QatTrainer


def run(args: Job) -> None:
    """Train in one process or several; raise UserError if the dataset does not fit the parameters."""
    from data import index
    from model import parallel, training

    device = training.start(args.seed, args.threads, args.device)
    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    images = index.count(listing, "train")
    if images < args.recipe["batch"]:
        raise UserError(f"qat.batch {args.recipe['batch']} is more than the {images} training images")
    processes = parallel.count(args.processes, args.recipe["batch"], device, "qat.batch")
    if processes > 1:
        parallel.launch(train, processes, args)
    else:
        train(args)
    log.info("QAT on %d images on %s, %d processes", images, device, processes)


def train(args: Job) -> None:
    """Train in one of the processes; rank 0 writes the checkpoint."""
    from model import checkpoint, parallel, training
    from model.resume import Resume

    device = training.start(args.seed, args.threads, args.device)
    resume = Resume(args.final("qat"), args.key)
    with parallel.group(device, args.threads) as (rank, processes, device):
        trainer = setup(args, device)
        images = trainer.steps * args.recipe["batch"]
        with progress.bar(images, f"QAT {trainer.row['timm']}", disable=rank > 0) as bar:
            trainer.run(rank, processes, resume, bar)
        if rank == 0:
            checkpoint.save(trainer.student.network.state_dict(), args.qat)
            resume.remove()


def setup(args: Job, device: torch.device) -> QatTrainer:
    """Return the trainer: the folded network is the teacher; quantized and calibrated, it is the student."""
    import quantization
    from data import augment, index
    from model import checkpoint, deploy, equivalence, zoo
    from quantization import amax, calibrator, qat, scaling

    calibration, row = read_json(args.calibration), resolved.read(args.model, resolved.AUGMENTED)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(args.images, row))
    student = calibrator.adjust(copy.deepcopy(model), calibration)
    student = quantization.add(student, calibrator.backend(calibration.get("recipe", {})))
    amax.load(student, calibration["amax"])
    teacher = scaling.apply(model, calibration.get("scaling", {}))  # scales its block outputs as the student's
    geometry = {name: row[name] for name in resolved.GEOMETRY}
    images = augment.TrainImages(index.read(args.index), args.index, geometry, args.augmentation, args.seed)
    return qat.QatTrainer(teacher.to(device), student.to(device), images, args.recipe, args.seed, row, device)


def context(args: Job) -> dict:
    """Return the properties of this machine that the weights depend on."""
    from model import context

    return context.of_training(args.device, args.threads, args.processes)


def index_content(args: Job) -> dict:
    """Return the content of the index that the checkpoint depends on."""
    from data import index

    return index.relevant(args.index, "train")


def command() -> Command:
    """Return the command line."""
    tools = ("torch", "timm", "nvidia-modelopt", "pytorch-quantization", "numpy", "pillow")
    c = Command(__file__, __doc__, tools=tools, heavy=True, trained=True, context=context)
    c.input("--checkpoint").input("--calibration")
    c.input("--index", help="index.json of the dataset", content=index_content)
    c.input("--images", help=".u8 of a split, on which folding is checked")
    c.model(resolved.AUGMENTED).param("--classes", type=int, required=True)
    c.json_param("--recipe", help="JSON of the precision's `qat` row")
    c.json_param("--augmentation", help="JSON of the dataset's").param("--seed", type=int, required=True)
    c.output("--qat", help="state dict: weights, and amax of each quantizer")
    c.untracked("--threads", type=int, default=0).untracked("--device", default="auto", help="auto, cpu or cuda")
    processes = int(os.environ.get("LEVIT_PROCESSES") or 0)
    return c.untracked(
        "--processes", type=int, default=processes, help="that share each batch; 0: one per GPU ($LEVIT_PROCESSES)"
    )


if __name__ == "__main__":
    command().run(run)
