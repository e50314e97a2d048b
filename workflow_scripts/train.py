"""Train a model from scratch on a dataset's training images."""

from cli import Command, log

DEFAULTS = {"small_epochs": 0, "small_size": 1.0, "smoothing": 0.0, "betas": [0.9, 0.999], "flip": 0.0}


def produce(args):
    import progress
    from data import augment, index
    from files import UserError
    from model import checkpoint, training, zoo

    listing = index.read(args.index)
    if len(listing["classes"]) != args.classes:
        raise UserError(f"--classes {args.classes}: {args.index} has {len(listing['classes'])} classes")
    args.training = dict(DEFAULTS, **args.training)
    device = training.start(args.seed, args.threads, args.device)
    model = zoo.create(args.model, args.classes).to(device)
    geometry = {name: args.model[name] for name in ("size", "crop", "interpolation")}
    images = augment.TrainImages(listing, args.index, geometry, args.training, args.seed)
    clean = augment.TrainImages(listing, args.index, geometry, None, args.seed)
    if len(images) < args.training["batch"]:
        raise UserError(f"training.batch {args.training['batch']} is more than the {len(images)} training images")
    total = args.training["epochs"] * len(images) + len(clean)
    with progress.bar(total, f"train {args.model['timm']}") as bar:
        fit(model, images, args, device, bar)
        order = augment.order(len(clean), args.seed, "clean")
        batches = training.batches(clean, order, args.training["batch"], args.model, device)
        training.restate_batchnorm(model, _inputs(batches, bar))
    checkpoint.save(model.state_dict(), args.checkpoint)
    log.info("trained on %d images in %s on %s", len(images), _spoken(training.fast_type(device)), device)


def fit(model, images, args, device, bar):
    """Run every epoch: AdamW on the mean cross-entropy of the model's heads, gradients clipped to a norm."""
    import torch

    from data import augment
    from model import training

    recipe = args.training
    kind = training.fast_type(device)
    steps = recipe["epochs"] * (len(images) // recipe["batch"])
    groups = training.parameter_groups(model, recipe["weight_decay"])
    options = {name: recipe[name] for name in ("learning_rate", "warmup", "clip", "betas")}
    descent = training.Descent(groups, steps, **options)
    model.train()
    if hasattr(model, "set_distilled_training"):
        model.set_distilled_training(True)  # both heads learn, each by its own loss
    for epoch in range(recipe["epochs"]):
        images.epoch = epoch
        if recipe["small_epochs"]:  # small images teach nearly as much at first, and take a fraction of the time
            images.geometry = dict(images.geometry, size=_size_at(epoch, recipe, args.model["size"], model.stem.stride))
            training.set_size(model, images.geometry["size"])
        whole = len(images) - len(images) % recipe["batch"]
        order = augment.order(len(images), args.seed, epoch)[:whole]
        for inputs, labels in training.batches(images, order, recipe["batch"], args.model, device):
            with training.autocast(device, kind):
                outputs = model(inputs)
            heads = outputs if isinstance(outputs, tuple) else (outputs,)
            loss_of = torch.nn.functional.cross_entropy
            losses = [loss_of(head.float(), labels, label_smoothing=recipe["smoothing"]) for head in heads]
            loss = sum(losses) / len(losses)
            descent.step(loss, f"training diverged in epoch {epoch + 1}: lower training.learning_rate or raise warmup")
            bar.set_postfix_str(f"epoch {epoch + 1}/{recipe['epochs']} loss {loss.item():.3f}", refresh=False)
            bar.update(len(labels))
    if recipe["small_epochs"]:
        training.set_size(model, args.model["size"])


def _size_at(epoch, recipe, full, stride):
    share = recipe["small_size"] if epoch < recipe["small_epochs"] else 1.0
    return max(1, int(full * share) // stride) * stride


def _inputs(batches, bar):
    for inputs, labels in batches:
        yield inputs
        bar.update(len(labels))


def _spoken(kind):
    return "float32" if kind is None else str(kind).rpartition(".")[2]


def command():
    c = Command(__file__, __doc__, tools=("torch", "timm", "numpy", "pillow"), heavy=True)
    c.input("--index", help="index.json of the dataset")
    c.recipe("--model", help="JSON row of `models`")
    c.param("--classes", type=int, required=True)
    c.recipe("--training", help="JSON of the dataset's `training` row")
    c.param("--seed", type=int, required=True)
    c.output("--checkpoint", help="state dict to write")
    c.setting("--threads", type=int, default=0, help="CPU threads (0: all cores)")
    c.setting("--device", default="auto", help="auto, cpu or cuda")
    return c


if __name__ == "__main__":
    command().run(produce)
