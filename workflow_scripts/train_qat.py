"""Quantization-aware training: the quantized network learns the FP32 network's logits, with calibrated ranges kept."""

from cli import Command, log


def produce(args):
    import copy

    import progress
    from data import augment, index
    from files import UserError, read_json
    from model import checkpoint, deploy, training, zoo
    from quantization import quantizers

    device = training.start(args.seed, args.threads, args.device)
    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    model = deploy.fold(checkpoint.load_into(zoo.create(args.model, args.classes), args.checkpoint)).to(device)
    student = quantizers.add(copy.deepcopy(model))
    quantizers.load_ranges(student, read_json(args.calibration)["amax"])
    geometry = {name: args.model[name] for name in ("size", "crop", "interpolation")}
    images = augment.TrainImages(listing, args.index, geometry, args.augmentation, args.seed)
    if len(images) < args.recipe["batch"]:
        raise UserError(f"qat.batch {args.recipe['batch']} is more than the {len(images)} training images")
    with progress.bar(args.recipe["epochs"] * len(images), f"QAT {args.model['timm']}") as bar:
        fit(model, student, images, args, device, bar)
    checkpoint.save(quantizers.state(student), args.qat)
    log.info("%d epochs of %d images on %s", args.recipe["epochs"], len(images), device)


def fit(teacher, student, images, args, device, bar):
    """Run every epoch: AdamW on the distillation loss, warm-up then cosine, gradients clipped to norm 1."""
    import torch

    from data import augment
    from model import training

    recipe = args.recipe
    steps = recipe["epochs"] * (len(images) // recipe["batch"])
    groups = [{"params": list(student.parameters()), "weight_decay": 0.0}]
    descent = training.Descent(groups, steps, recipe["learning_rate"])
    whole = len(images) - len(images) % recipe["batch"]
    for epoch in range(recipe["epochs"]):
        images.epoch = epoch
        order = augment.order(len(images), args.seed, f"qat {epoch}")[:whole]
        for inputs, labels in training.batches(images, order, recipe["batch"], args.model, device):
            with torch.no_grad():
                target = teacher(inputs)
            loss = distillation(student(inputs), target, recipe["temperature"])
            descent.step(loss, f"QAT diverged in epoch {epoch + 1}: lower qat.learning_rate")
            bar.set_postfix_str(f"epoch {epoch + 1}/{recipe['epochs']} loss {loss.item():.5f}", refresh=False)
            bar.update(len(labels))


def distillation(logits, target, temperature):
    """Return KL(teacher || student) of softened logits [N, C], times T^2.

    The factor keeps gradients alike whatever the temperature T (Hinton, Vinyals, Dean 2015, arXiv 1503.02531).
    """
    import torch.nn.functional as F

    student, teacher = (F.log_softmax(x.float() / temperature, dim=1) for x in (logits, target))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def command():
    c = Command(__file__, __doc__, tools=("torch", "timm", "nvidia-modelopt", "numpy", "pillow"), heavy=True)
    c.input("--checkpoint").input("--calibration").input("--index", help="index.json of the dataset")
    c.recipe("--model", help="JSON row of `models`").param("--classes", type=int, required=True)
    c.recipe("--recipe", help="JSON of the precision's `qat` row").recipe(
        "--augmentation", help="JSON of the dataset's"
    )
    c.param("--seed", type=int, required=True).output("--qat", help="state dict: weights, and amax of each quantizer")
    return c.setting("--threads", type=int, default=0).setting("--device", default="auto", help="auto, cpu or cuda")


if __name__ == "__main__":
    command().run(produce)
