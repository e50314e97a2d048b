"""Write the index of a dataset: its images, labels and splits. A builtin dataset writes its PNG files first."""

import os

from cli import Command, log


def produce(args):
    from data import digits, folder
    from files import UserError, write_json

    builtins = {"digits": digits.write_tree}
    row = args.dataset
    if row.get("builtin"):
        if row["builtin"] not in builtins:
            raise UserError(f"builtin dataset {row['builtin']!r} is unknown: {', '.join(builtins)}")
        builtins[row["builtin"]](args.images_root)
        root = args.images_root
    else:
        root = row["path"]
    index = folder.build(root, row, args.seed, hash_all=bool(row.get("builtin")))
    if not os.path.isabs(root) or row.get("builtin"):
        index["root"] = os.path.relpath(root, os.path.dirname(os.path.abspath(args.index)))
    write_json(args.index, index)
    counts = ", ".join(f"{len(positions)} {name}" for name, positions in index["splits"].items())
    log.info("%s: %d images in %d classes (%s)", root, len(index["images"]), len(index["classes"]), counts)


def command():
    c = Command(__file__, __doc__, tools=("numpy", "pillow", "scikit-learn"))
    c.recipe("--dataset", help="JSON row of `datasets`: builtin or path, classes, splits")
    c.param("--seed", type=int, required=True, help="of the splits")
    c.output("--index", help="JSON file to write")
    c.setting("--images-root", default="images", help="folder where a builtin dataset writes its PNG files")
    return c


if __name__ == "__main__":
    command().run(produce)
