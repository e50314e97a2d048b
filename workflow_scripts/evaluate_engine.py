"""Measure an engine's accuracy on a split, from its file: top-1, top-5, agreement and errors against PyTorch FP32.

A plain .onnx is an engine for the runtime onnxruntime. The recipe is {"threads"?}, the model {"mean", "std"}.
"""

from cli import Command, log

BATCH = 32  # images at a time, where the engine takes any number


def produce(args):
    import runtimes
    from data import cache, index
    from files import sha256_file, write_json
    from measure import accuracy

    table = index.read(args.index)
    labels = index.labels(table, args.split)
    session = runtimes.load(args.runtime).load(args.engine, args.recipe.get("threads", 0))
    logits = logits_of(session, args.engine, cache.read(args.images, len(labels)), args.model)
    accuracy.check_finite(logits, args.engine, index.files(table, args.index, args.split))
    check_classes(logits, table, args.engine)
    scores = accuracy.score(logits, labels, read_logits(args.reference))
    write_json(args.accuracy, {"split": args.split, "engine_sha256": sha256_file(args.engine), **scores})
    pair = scores["paired_with_fp32"]
    log.info(
        "top-1 %.2f %% of %d images, PyTorch FP32 %.2f %%: net loss %d images (%d lost, %d gained; "
        "with 95 %% confidence %.1f to %.1f)",
        *(scores[name] for name in ("top1", "num_images", "fp32_top1")),
        *(pair[name] for name in ("net_lost", "lost", "gained")),
        *pair["interval"],
    )


def logits_of(session, name, images, model):
    """Return float32 [N, C] logits of uint8 images [N, size, size, 3], normalized as the model's row says."""
    import numpy as np

    import progress
    from data import preprocess

    step = session.batches[-1] if session.batches else BATCH
    parts = []
    with progress.bar(len(images), f"evaluate {name}") as bar:
        for start in range(0, len(images), step):
            batch = preprocess.normalize(images[start : start + step], model["mean"], model["std"])
            parts.append(session.run(batch))
            bar.update(len(batch))
    return np.concatenate(parts)


def read_logits(path):
    """Return the float32 [N, C] logits in a .npy; raise UserError where it holds something else."""
    import numpy as np

    from files import UserError

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{path} is not a .npy of logits: delete it and run again") from None


def check_classes(logits, table, engine):
    """Raise UserError where the engine has another number of classes than the dataset."""
    from files import UserError

    if logits.shape[1] != len(table["classes"]):
        raise UserError(f"{engine} has {logits.shape[1]} classes, and the dataset {len(table['classes'])}")


def command():
    c = Command(__file__, __doc__, modules=lambda args: [f"runtimes/{args.runtime}.py"])
    c.input("--engine").input("--images", help=".u8 of the split").input("--index")
    c.input("--reference", help=".npy of PyTorch FP32's logits of the same images")
    c.param("--runtime", required=True).param("--split", required=True)
    c.recipe("--model", help="JSON").recipe("--recipe", help="JSON").recipe("--identity", help="JSON")
    return c.output("--accuracy")


if __name__ == "__main__":
    command().run(produce)
