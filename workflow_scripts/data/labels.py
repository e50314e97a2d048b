"""Labels of the images in a flat folder or archive, from the label files used with ImageNet.

| one line per image | as in |
| --- | --- |
| `file class`, the class by name or by its number from 0 in class order | Caffe's val.txt |
| `ImageId,PredictionString` above `file,class x y x y ...` | Kaggle's LOC_val_solution.csv |
| `class` by name, in file order | TensorFlow's imagenet_2012_validation_synset_labels.txt |
| `number` from 1 in the development kit's class order, in file order | ILSVRC2012_validation_ground_truth.txt |

The last needs the kit's meta.mat beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec

from core.files import UserError
from core.suggest import nearest

NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})")
BETWEEN = re.compile(r"[\s,]+")
HEADER = "imageid,"
META = "meta.mat"


def class_names(path: str) -> list[str]:
    """Return the sorted class names: the first word of each line, those of meta.mat, or the 1,000 of `imagenet`."""
    if path == "imagenet":  # timm's file, without importing timm
        (folder,) = find_spec("timm").submodule_search_locations  # type: ignore[union-attr, misc]
        path = os.path.join(folder, "data/_info/imagenet_synsets.txt")
    if path.endswith(".mat"):
        return sorted(kit_names(path).values())
    names = [line.split()[0] for line in lines_of(path, "synsets")]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names a class twice: it needs one line per class (`synsets`)")
    return sorted(names)


def kit_names(path: str) -> dict[int, str]:
    """Return {number: synset} of the classes in a development kit's meta.mat; raise UserError if it is not one."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not os.path.exists(path):
        raise UserError(
            f"{path} does not exist: the development kit's numbers are not in synset order, and its meta.mat maps "
            "them; put it beside the labels, or name it in `synsets`"
        )
    try:
        rows = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except (MatReadError, ValueError, KeyError, TypeError, IndexError, NotImplementedError, OSError) as error:
        raise UserError(f"{path} is not ILSVRC2012's meta.mat ({error}): take it from the development kit") from None


def assign(
    files: Sequence[str], path: str, names: list[str] | None, classes: int, synsets: str | None = None
) -> list[str]:
    """Return the class of each file.

    files: names in order; path: of the label file; names: of all classes in order, or None if unknown;
    classes: their number; synsets: of the dataset's row. Raises UserError if a label is missing or not a class.
    """
    rows = [BETWEEN.split(line) for line in lines_of(path, "labels") if not line.lower().startswith(HEADER)]
    widths = {len(row) for row in rows}
    if widths == {1}:
        assigned = _in_order(files, [row[0] for row in rows], path, synsets)
    elif min(widths) >= 2:
        assigned = _by_name(files, _labels_of(rows, path), path, names, classes)
    else:
        raise UserError(f"{path}: some lines name a file and some do not: write `file class` or `class` on each line")
    strange = sorted(set(assigned) - set(assigned if names is None else names))
    if strange:
        hint = f"{nearest(strange[0], names or ())} (`synsets` may name all classes)"
        raise UserError(f"{path} has the class {strange[0]}, which the dataset does not have: {hint}")
    return assigned


def _labels_of(rows, path):
    """Return {name of a file without folder and suffix: label}; raise UserError where a name has two labels."""
    label_of: dict[str, str] = {}
    for file, label, *_ in rows:
        if label_of.setdefault(_stem(file), label) != label:
            raise UserError(
                f"{path} has the labels {label_of[_stem(file)]} and {label} for {_stem(file)}: images are told apart "
                "by their names without folder and suffix: rename one, or take a line out"
            )
    return label_of


def _by_name(files, label_of, path, names, classes):
    missing = [file for file in files if _stem(file) not in label_of]
    if missing:
        raise UserError(f"{path} has no label for {missing[0]} ({len(missing)} of {len(files)} images): add a line")
    labels = [label_of[_stem(file)] for file in files]
    if not all(map(str.isdecimal, labels)) or set(labels) <= set(names or ()):
        return labels
    names = names or numbered(classes)
    largest = max(int(label) for label in label_of.values() if label.isdecimal())  # a line of titles has none
    if largest >= len(names):
        raise UserError(f"{path} has the label {largest}, and there are {len(names)} classes: labels count from 0")
    return [names[int(label)] for label in labels]


def numbered(classes: int) -> list[str]:
    """Return names for unnamed classes: numbers of equal width."""
    return [f"{number:0{len(str(classes - 1))}}" for number in range(classes)]


def _in_order(files, labels, path, synsets):
    """Return the labels of the files by position: the number in an ImageNet file name, or the place among all files."""
    matches = [NUMBERED.search(file) for file in files]
    numbers = [int(match[1]) - 1 for match in matches if match]
    places = numbers if len(numbers) == len(files) else range(len(files))
    if not 0 <= min(places) <= max(places) < len(labels) or (isinstance(places, range) and len(files) != len(labels)):
        counts = f"{len(labels)} lines for {len(files)} images"
        raise UserError(f"{path} has {counts}: it needs one line per image, in file order")
    if labels[0].isdecimal():
        meta = synsets if synsets and synsets.endswith(".mat") else os.path.join(os.path.dirname(path), META)
        names_of = kit_names(meta)
        strange = sorted({label for label in labels if not label.isdecimal() or int(label) not in names_of})
        if strange:
            raise UserError(f"{path} has the label {strange[0]}, which is not in {meta}: labels count from 1")
        labels = [names_of[int(label)] for label in labels]
    return [labels[place] for place in places]


def _stem(file):
    return os.path.splitext(os.path.basename(file))[0]


def lines_of(path: str, key: str) -> list[str]:
    """Return the stripped, non-empty lines of a text file; key: of the row that names it, for errors."""
    try:
        with open(path, encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: correct `{key}` in config.yaml") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a text file ({error}): `{key}` must be one") from None
    if not lines:
        raise UserError(f"{path} is empty: it needs one line per image, or per class")
    return lines


def chosen(text: str, names: list[str]) -> set[int]:
    """Return the class numbers that a text such as `0-9, 42, n02123045` selects."""
    numbers = set()
    for part in filter(None, (word.strip() for word in str(text).split(","))):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if part in names:
            numbers.add(names.index(part))
        elif span and int(span[1]) <= int(span[2] or span[1]) < len(names):
            numbers.update(range(int(span[1]), int(span[2] or span[1]) + 1))
        else:
            hint = "numbers count in class order" if span else nearest(part, names)
            last = len(names) - 1
            raise UserError(f"subset.classes: {part} is not a class: 0 to {last}, a range of them, or a name ({hint})")
    return numbers
