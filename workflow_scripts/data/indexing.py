"""Build the index of a dataset: splits by hash and seed, contents by SHA-256."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from core import processors, progress
from core.files import UserError
from data import doubts, image_formats, index, labels, layouts, preprocess, splits, walk

HASHED = 4 << 30  # bytes of training images up to which each is hashed; above, its time of change identifies it
DEEP = (b"\x89PNG", b"II", b"MM", b"P2", b"P5")  # starts of files that may have more than 8 bits: PNG, TIFF, PGM
BLOCK = 64  # images hashed by a thread at a time


def build(root: str, row: dict, seed: int, hash_all: bool, train_file: str = "train.tsv") -> tuple[dict, bytes]:
    """Return (index of the folder `root`, bytes of its file of training images).

    row: of `datasets` ({classes, splits, ...}); seed: of the splits; hash_all: also hash images that only train.
    The images of val are those of the dataset's own val; if it has none, `splits: val` images are held out.
    Raises UserError if the images do not fit the row.
    """
    images, classes, order, left_out = layouts.find(root, row)
    _check_count(root, row, classes)
    empty = [image for image in images if image.bytes == 0]
    if empty:
        raise UserError(f"image {os.path.join(root, empty[0].path)} is empty: replace or remove it")
    number = {name: position for position, name in enumerate(classes)}
    numbers = [number[image.name] for image in images]
    parts = _split(root, images, numbers, row["splits"], seed)
    parts["val"] = _subset(parts["val"], images, numbers, classes, row.get("subset"))
    train = parts.pop("train")
    measured = sorted({position for part in parts.values() for position in part})
    place = {position: there for there, position in enumerate(measured)}
    few = hash_all or sum(images[position].bytes for position in train) <= HASHED
    digests, deep = _hashed(root, images, measured + [p for p in train if few and p not in place])
    others = {*train, *parts["calib"], *parts["select"]}
    paths = [image.path for image in images]
    doubtful = {
        "repeated": doubts.repeated(parts["val"], others, digests, paths),
        "clipped": {"images": len(deep), "first": paths[min(deep)]} if deep else None,
    }
    lines = index.train_lines(_trained(images[p], numbers[p], digests.get(p)) for p in train)
    return {
        "classes": classes,
        "root": root,
        "images": [{**_described(images[p], numbers[p]), "sha256": digests[p]} for p in measured],
        "splits": {name: [place[position] for position in part] for name, part in parts.items()},
        "train": {"file": train_file, "images": len(train), "sha256": hashlib.sha256(lines).hexdigest()},
        "subset": row.get("subset"),
        "class_order": order.described(classes),
        "left_out": {reason: count for reason, count in sorted(left_out.items()) if count},
        **({"titles": order.titles} if order.titles else {}),
        **{key: doubt for key, doubt in doubtful.items() if doubt},
    }, lines


def _check_count(root, row, classes):
    if len(classes) != row["classes"]:
        first = os.path.join(root, classes[0])
        inner = walk.folders(first) if os.path.isdir(first) else ()
        halves = len(classes) == 1 and any(layouts.SPLIT.fullmatch(name) for name in inner)
        remedy = f"`path` (the halves are in {first})" if halves else "`classes`"
        counts = f"{len(classes)} classes, config.yaml says {row['classes']}"
        raise UserError(f"dataset folder {root} holds {counts}: correct {remedy}")


def _split(root, images, labels, sizes, seed):
    """Return {split: positions}: val, then select out of the rest, then calib among the images left for training."""
    keys = [image.path for image in images]
    own_val = [position for position, image in enumerate(images) if image.half == "val"]
    rest = [position for position, image in enumerate(images) if image.half != "val"]
    if not rest and sizes.get("val"):
        own_val, rest = [], own_val  # the dataset is val alone, and the row divides it
    elif not rest and (sizes["calib"] or sizes["select"]):
        raise UserError(
            f"dataset folder {root} has no train/, the source of calib (INT8) and select (plans, choices): add it; or "
            "set both to 0 in `splits` to evaluate what needs neither; or add `val: N` there to divide val"
        )
    elif not rest:
        return {"train": [], "calib": [], "select": [], "val": own_val}
    if not own_val and not sizes.get("val"):
        raise UserError(f"dataset folder {root} has no train/ and val/: add `val: N` to its `splits` in config.yaml")
    wanted = (0 if own_val else sizes["val"]) + sizes["select"]
    if wanted + max(sizes["calib"], 1) > len(rest):
        asks = f"`splits` takes {wanted} images from training and {sizes['calib']} for calib, there are {len(rest)}"
        raise UserError(f"dataset folder {root}: {asks}: lower `splits` in config.yaml")

    def take(candidates, count, name):
        return splits.balanced(candidates, labels, keys, count, f"{seed}/{name}")

    val = own_val or sorted(take(rest, sizes["val"], "val"))
    rest = sorted(set(rest) - set(val))
    select = sorted(take(rest, sizes["select"], "select"))
    train = sorted(set(rest) - set(select))
    return {"train": train, "calib": take(train, sizes["calib"], "calib"), "select": select, "val": val}


def _subset(val, images, numbers, classes, wanted):
    """Return the positions of val within a row's `subset` ({classes, images})."""
    if not wanted:
        return val
    subset = labels.chosen(wanted["classes"], classes) if "classes" in wanted else set(numbers)
    val = [position for position in val if numbers[position] in subset]
    count = wanted.get("images", len(val))
    if not val or count > len(val):
        raise UserError(f"subset asks for {count or 1} images of val, {len(val)} are of its classes: lower `images`")
    return sorted(splits.balanced(val, numbers, [image.path for image in images], count, "subset"))


def _hashed(root, images, positions):
    """Return ({position: hex SHA-256 of the image's bytes}, positions of those with more than 8 bits a channel)."""
    blocks = [positions[start : start + BLOCK] for start in range(0, len(positions), BLOCK)]
    digests, deep = {}, []

    def of_block(block):
        return [_digest(index.within(root, images[position].source)) for position in block]

    with progress.bar(len(positions), "index") as bar, ThreadPoolExecutor(processors.available()) as pool:
        for block, several in zip(blocks, pool.map(of_block, blocks)):
            digests.update(zip(block, (digest for digest, _ in several)))
            deep += [position for position, (_, is_deep) in zip(block, several) if is_deep]
            bar.update(len(block))
    return digests, deep


def _digest(image):
    """Return (hex SHA-256 of an image's bytes, whether it has over 8 bits a channel); UserError for other formats."""
    content = preprocess.content(image)
    is_known = image_formats.has_magic(content[: image_formats.HEAD])
    mode = "" if is_known and not content.startswith(DEEP) else preprocess.mode(content, image)
    return hashlib.sha256(content).hexdigest(), mode.startswith(doubts.MODES)


def _described(image, label):
    there = {} if image.archive is None else {"archive": image.archive, "offset": image.offset}
    return {"path": image.path, "label": label, "bytes": image.bytes, **there}


def _trained(image, label, digest):
    return {**_described(image, label), "stamp": f"sha256:{digest}" if digest else f"changed:{image.changed}"}
