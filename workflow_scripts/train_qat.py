"""Quantization-aware training: the quantized network learns the FP32 network's logits and block outputs."""

import os
from contextlib import nullcontext

from core import resolved
from core.command import Command, log


def run(args):
    from core.files import UserError
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


def train(args):
    """Train in one of the processes; the first of them writes the checkpoint."""
    from core import progress
    from model import checkpoint, parallel, training
    from model.resume import Resume

    device = training.start(args.seed, args.threads, args.device)
    resume = Resume(args.final("qat"), args.key)
    with parallel.group(device, args.threads) as (rank, processes, device):
        job = setup(args, device)
        images = job.steps * args.recipe["batch"]
        with progress.bar(images, f"QAT {job.row['timm']}") if rank == 0 else nullcontext(parallel.Silent()) as bar:
            job.run(rank, processes, resume, bar)
        if rank == 0:
            checkpoint.save(job.student.network.state_dict(), args.qat)
            resume.remove()


def setup(args, device):
    """Return the job: the folded network as teacher, quantized and calibrated as student."""
    import copy

    import quantization
    from core.files import read_json
    from data import augment, index
    from model import checkpoint, deploy, equivalence, zoo
    from quantization import amax, calibrator, qat, scaling

    calibration, row = read_json(args.calibration), resolved.read(args.model, resolved.AUGMENTED)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(args.images, row))
    student = calibrator.adjust(copy.deepcopy(model), calibration)
    student = quantization.add(student, calibrator.backend(calibration.get("recipe", {})))
    amax.load(student, calibration["amax"])
    teacher = scaling.apply(model, calibration.get("scaling", {}))  # its blocks then give what the student's should
    geometry = {name: row[name] for name in resolved.GEOMETRY}
    images = augment.TrainImages(index.read(args.index), args.index, geometry, args.augmentation, args.seed)
    return qat.QatTrainer(teacher.to(device), student.to(device), images, args.recipe, args.seed, row, device)


def context(args):
    """Return what of this machine decides the weights."""
    from model import context

    return context.of_training(args.device, args.threads, args.processes)


def decides(args):
    """Return what of the index decides the checkpoint."""
    from data import index

    return index.relevant(args.index, "train")


def command():
    tools = ("torch", "timm", "nvidia-modelopt", "pytorch-quantization", "numpy", "pillow")
    c = Command(__file__, __doc__, tools=tools, heavy=True, trained=True, context=context)
    c.input("--checkpoint").input("--calibration")
    c.input("--index", help="index.json of the dataset", content=decides)
    c.input("--images", help=".u8 of a split, on which folding is proved")
    c.model(resolved.AUGMENTED).param("--classes", type=int, required=True)
    c.json_param("--recipe", help="JSON of the precision's `qat` row")
    c.json_param("--augmentation", help="JSON of the dataset's").param("--seed", type=int, required=True)
    c.output("--qat", help="state dict: weights, and amax of each quantizer")
    c.untracked("--threads", type=int, default=0).untracked("--device", default="auto", help="auto, cpu or cuda")
    wanted = int(os.environ.get("LEVIT_PROCESSES") or 0)
    return c.untracked(
        "--processes", type=int, default=wanted, help="sharing each batch; 0: one a GPU ($LEVIT_PROCESSES)"
    )


if __name__ == "__main__":
    command().run(run)
