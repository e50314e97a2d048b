"""Quantization-aware training: the quantized network learns the FP32 network's logits and block outputs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from core import progress, resolved
from core.command import Command, Job, log
from core.files import read_json
from data import index

if TYPE_CHECKING:
    import torch

    from quantization.qat import QatTrainer


def run(args: Job) -> None:
    from model import parallel

    log.info("QAT on %s", parallel.run(train, args, args.recipe, "qat", "qat"))


def train(args: Job) -> None:
    """Train in one of the processes; rank 0 writes the checkpoint."""
    from model import checkpoint, parallel, training

    device, resume = training.start(args.seed, args.threads, args.device), parallel.resume_of(args, "qat")
    with parallel.group(device, args.threads) as (rank, processes, device):
        trainer = setup(args, device)
        images = trainer.steps * args.recipe["batch"]
        with progress.bar(images, f"QAT {trainer.row['timm']}", disable=rank > 0) as bar:
            trainer.run(rank, processes, resume, bar)
        if rank == 0:
            checkpoint.save(trainer.model.network.state_dict(), args.qat)
            resume.remove()


def setup(args: Job, device: torch.device) -> QatTrainer:
    """Return the trainer: the folded network is the teacher; quantized and calibrated, it is the student."""
    from data import augment
    from model import checkpoint, deploy, equivalence, zoo
    from quantization import amax, backends, calibrator, qat, scaling

    calibration, row = read_json(args.calibration), resolved.read(args.model, resolved.AUGMENTED)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(args.images, row))
    student = calibrator.adjust(copy.deepcopy(model), calibration)
    student = backends.add(student, calibration.get("recipe", {}))
    amax.load(student, calibration["amax"])
    teacher = scaling.apply(model, calibration.get("scaling", {}))  # scales its block outputs as the student's
    geometry = {name: row[name] for name in resolved.GEOMETRY}
    images = augment.TrainImages(index.read(args.index), args.index, geometry, args.augmentation, args.seed)
    return qat.QatTrainer(teacher.to(device), student.to(device), images, args.recipe, row)


def context(args: Job) -> dict:
    """Return the properties of this machine that the weights depend on."""
    from model import context

    return context.of_training(args, args.recipe)


def command() -> Command:
    tools = ("torch", "timm", "nvidia-modelopt", "pytorch-quantization", "numpy", "pillow")
    c = Command(__file__, __doc__, tools=tools, heavy=True, trained=True, context=context)
    c.input("--checkpoint").input("--calibration")
    c.input("--index", help="index.json of the dataset", content=lambda args: index.relevant(args.index, "train"))
    c.input("--images", help=".u8 of a split, on which folding is checked")
    c.training().json_param("--recipe", help="JSON of the precision's `qat` row")
    c.json_param("--augmentation", help="JSON of the dataset's")
    return c.output("--qat", help="state dict: weights, and amax of each quantizer")


if __name__ == "__main__":
    command().run(run)
