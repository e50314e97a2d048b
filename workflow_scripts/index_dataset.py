"""Write the index of a dataset: its images, labels and splits. A builtin dataset writes its PNG files first."""

import importlib
import os

from cli import Command, log

BUILTINS = ("digits", "glyphs")  # data/{name}.py: write_tree(folder, row) -> what else the index says


def produce(args):
    from data import folder
    from files import UserError, write_json

    row, origin = args.dataset, {}
    if row.get("builtin"):
        if row["builtin"] not in BUILTINS:
            raise UserError(f"builtin dataset {row['builtin']!r} is unknown: {', '.join(BUILTINS)}")
        root = args.images_root
        origin = importlib.import_module(f"data.{row['builtin']}").write_tree(root, row)
    else:
        root = row["path"]
    index = {**origin, **folder.build(root, row, args.seed, hash_all=bool(row.get("builtin")))}
    if not os.path.isabs(root) or row.get("builtin"):
        index["root"] = os.path.relpath(root, os.path.dirname(os.path.abspath(args.index)))
    write_json(args.index, index)
    counts = ", ".join(f"{len(positions)} {name}" for name, positions in index["splits"].items())
    log.info("%s: %d images in %d classes (%s)", root, len(index["images"]), len(index["classes"]), counts)


def writers(args):
    return [f"data/{args.dataset['builtin']}.py"] if args.dataset.get("builtin") else []


def command():
    c = Command(__file__, __doc__, tools=("numpy", "pillow", "scikit-learn"), modules=writers)
    c.recipe("--dataset", help="JSON row of `datasets`: builtin (and drawing) or path, classes, splits")
    c.param("--seed", type=int, required=True, help="of the splits")
    c.output("--index", help="JSON file to write")
    c.setting("--images-root", default="images", help="folder where a builtin dataset writes its PNG files")
    return c


if __name__ == "__main__":
    command().run(produce)
