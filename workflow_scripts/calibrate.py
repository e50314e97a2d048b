"""Find the range (amax) of every quantizer of the folded network on calibration images."""

from cli import Command, log

BATCH = 32


def produce(args):
    import torch

    from data import cache, preprocess
    from files import UserError, write_json
    from model import checkpoint, deploy, training, zoo
    from quantization import quantizers

    training.start(0, args.threads, "cpu")
    recipe, images = args.recipe, cache.read(args.images)
    if len(images) < recipe["images"]:
        log.warning("calibration asks for %d images, the split has %d: all are used", recipe["images"], len(images))
    used = min(recipe["images"], len(images))
    if used < 1:
        raise UserError(f"calibration.images {recipe['images']} with {len(images)} images in the split: at least 1")
    model = deploy.fold(checkpoint.load_into(zoo.create(args.model, args.classes), args.checkpoint))
    model = quantizers.add(model, recipe["method"])
    starts = range(0, used, BATCH)
    chunks = (images[start : min(start + BATCH, used)] for start in starts)
    batches = (torch.from_numpy(preprocess.normalize(c, args.model["mean"], args.model["std"])) for c in chunks)
    quantizers.calibrate(model, _shown(batches, used), recipe["method"])
    amax = quantizers.ranges(model)
    write_json(args.calibration, {"method": recipe["method"], "images": used, "amax": amax})
    log.info("%d quantizers, %s over %d images", len(amax), recipe["method"], used)


def _shown(batches, total):
    import progress

    with progress.bar(total, "calibrate") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def command():
    c = Command(__file__, __doc__, tools=("torch", "timm", "nvidia-modelopt", "numpy"), heavy=True)
    c.input("--checkpoint").input("--images", help="preprocessed calib split (.u8)")
    c.recipe("--model", help="JSON row of `models`").param("--classes", type=int, required=True)
    c.recipe("--recipe", help="JSON: method (max, entropy, percentile), images")
    return c.output("--calibration").setting("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(produce)
