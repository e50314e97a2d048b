"""Write the index of a dataset: its images, labels and splits. A builtin dataset writes its PNG files first."""

import importlib
import os
from pathlib import Path

from core.command import Command, Job, log
from core.files import UserError, write_json

BUILTINS = ("digits", "glyphs")  # data/{name}.py: write_tree(folder, row) -> what else the index says


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
    tell(root, index)


def tell(root, index):
    """Log what an index holds, in what order its classes stand where that is open, and what was left out and why."""
    from data import class_order

    sizes = {"train": index["train"]["images"], **{name: len(part) for name, part in index["splits"].items()}}
    counts = ", ".join(f"{size} {name}" for name, size in sizes.items())
    log.info("%s: %d classes (%s)", root, len(index["classes"]), counts)
    for line in filter(None, [class_order.warning(index)]):
        log.warning("warning: %s", line)
    if index["left_out"]:
        log.info("left out: %s", ", ".join(f"{count} {reason}" for reason, count in index["left_out"].items()))


def writers(args):
    return [f"data/{name}.py" for name in BUILTINS if name == args.dataset.get("builtin")]


def command() -> Command:
    c = Command(__file__, __doc__, tools=("numpy", "pillow", "scikit-learn"), modules=writers)
    c.json_param("--dataset", help="JSON row of `datasets`: builtin (and drawing) or path, classes, splits")
    c.param("--seed", type=int, required=True, help="of the splits")
    c.param("--state", default="", help="what was seen of the user's folder before: data/watch.py")
    c.output("--index", help="JSON file to write")
    c.output("--train-images", help="file of the images that train, to write beside it")
    c.output("--seen", help="text file of the state, to write")
    c.untracked("--images-root", default="images", help="folder where a builtin dataset writes its PNG files")
    return c


if __name__ == "__main__":
    command().run(run)
