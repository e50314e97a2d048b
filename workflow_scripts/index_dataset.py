"""Write the index of a dataset: its images, labels and splits. For a built-in dataset, write the PNG files first."""

import importlib
import os
from pathlib import Path

from core.command import Command, Job, log
from core.files import UserError, write_json

BUILTINS = ("digits", "glyphs")  # data/{name}.py: write_tree(folder, row) -> further keys of the index


def run(args: Job) -> None:
    from data import indexing

    row, origin = args.dataset, {}
    if row.get("builtin"):
        if row["builtin"] not in BUILTINS:
            raise UserError(f"builtin dataset {row['builtin']!r} is unknown: {', '.join(BUILTINS)}")
        root = args.images_root
        origin = importlib.import_module(f"data.{row['builtin']}").write_tree(root, row)
    else:
        root = row["path"]
    train_file = os.path.basename(args.final("train_images"))
    built, lines = indexing.build(root, row, args.seed, bool(row.get("builtin")), train_file)
    index = {**origin, **built}
    if not os.path.isabs(root) or row.get("builtin"):
        index["root"] = os.path.relpath(root, os.path.dirname(os.path.abspath(args.index)))
    Path(args.train_images).write_bytes(lines)
    Path(args.seen).write_text(args.state + "\n", encoding="utf-8")
    write_json(args.index, index)
    log_summary(root, index)


def log_summary(root: str, index: dict) -> None:
    """Log the size of an index, warnings on class order and images, and the files left out with the reason."""
    from data import class_order, doubts

    sizes = {"train": index["train"]["images"], **{name: len(part) for name, part in index["splits"].items()}}
    counts = ", ".join(f"{size} {name}" for name, size in sizes.items())
    log.info("%s: %d classes (%s)", root, len(index["classes"]), counts)
    for line in filter(None, [class_order.warning(index), *doubts.warnings(index)]):
        log.warning(line)
    if index["left_out"]:
        log.info("left out: %s", ", ".join(f"{count} {reason}" for reason, count in index["left_out"].items()))


def writers(args: Job) -> list[str]:
    """Return the script that writes a built-in dataset."""
    return [f"data/{name}.py" for name in BUILTINS if name == args.dataset.get("builtin")]


def command() -> Command:
    c = Command(__file__, __doc__, tools=("numpy", "pillow", "scikit-learn"), modules=writers)
    c.json_param("--dataset", help="JSON row of `datasets`: builtin (and drawing) or path, classes, splits")
    c.param("--seed", type=int, required=True, help="seed of the splits")
    c.param("--state", default="", help="fingerprint of the user's folder: data/watch.py")
    c.output("--index", help="JSON")
    c.output("--train-images", help="list of the training images, beside the index")
    c.output("--seen", help="text file of the state")
    return c.untracked("--images-root", default="images", help="folder for the PNG files of a built-in dataset")


if __name__ == "__main__":
    command().run(run)
