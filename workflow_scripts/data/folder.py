"""A dataset's folder becomes an index: one folder a class, splits by hash and seed, contents by SHA-256."""

import os
from concurrent.futures import ThreadPoolExecutor

import progress
from data import splits
from files import UserError, sha256_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
HALVES = ("train", "val")


def scan(root):
    """Return [(path relative to root, class)] of the images under root's class folders, sorted by path.

    Raises UserError where root is no folder, has no class folder, or a class folder has no image.
    """
    if not os.path.isdir(root):
        raise UserError(f"dataset folder {root} does not exist: correct `path` in config.yaml")
    names = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise UserError(f"dataset folder {root} is empty: it must hold one folder a class")
    found = []
    for name in names:
        inside = sorted(_images(os.path.join(root, name)))
        if not inside:
            raise UserError(f"class folder {os.path.join(root, name)} holds no image ({', '.join(SUFFIXES)})")
        found += [(os.path.relpath(path, root).replace(os.sep, "/"), name) for path in inside]
    return sorted(found)


def _images(folder):
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield os.path.join(parent, name)


def build(root, row, seed, hash_all):
    """Return the index of the folder `root` (see data/index.py), its `root` as given.

    row: of `datasets` ({classes, splits, ...}); seed: of the splits; hash_all: also of the images that only train.
    A folder with train/ and val/ is split already; another one gives `splits: val` images of its own.
    """
    halves = [half for half in HALVES if os.path.isdir(os.path.join(root, half))]
    if len(halves) == 1:
        missing = HALVES[1 - HALVES.index(halves[0])]
        raise UserError(f"dataset folder {root} has {halves[0]}/ but no {missing}/: add it, or give the class folders")
    found = _two_halves(root) if halves else [(path, name, None) for path, name in scan(root)]
    classes = sorted({name for _, name, half in found if half != "val"})
    if len(classes) != row["classes"]:
        raise UserError(
            f"dataset folder {root} holds {len(classes)} classes, config.yaml says {row['classes']}: correct `classes`"
        )
    labels = [classes.index(name) for _, name, _ in found]
    parts = _split(root, found, labels, row["splits"], seed)
    return {
        "classes": classes,
        "root": root,
        "images": _describe(root, found, labels, parts, hash_all),
        "splits": parts,
    }


def _two_halves(root):
    found = []
    for half in HALVES:
        found += [(f"{half}/{path}", name, half) for path, name in scan(os.path.join(root, half))]
    train, val = ({name for _, name, half in found if half == wanted} for wanted in HALVES)
    if train != val:
        odd = sorted(train ^ val)
        raise UserError(f"dataset folder {root}: classes differ between train/ and val/: {', '.join(odd[:5])}")
    return found


def _split(root, found, labels, sizes, seed):
    """Return {split: positions}: val, then select out of the rest, then calib within what is left to train."""
    keys = [path for path, _, _ in found]
    given = [position for position, (_, _, half) in enumerate(found) if half == "val"]
    rest = [position for position, (_, _, half) in enumerate(found) if half != "val"]
    if not given and not sizes.get("val"):
        raise UserError(f"dataset folder {root} has no train/ and val/: add `val: N` to its `splits` in config.yaml")
    wanted = (0 if given else sizes["val"]) + sizes["select"]
    if wanted + max(sizes["calib"], 1) > len(rest):
        raise UserError(
            f"dataset folder {root}: splits ask for {wanted} images apart from training and {sizes['calib']} of it, "
            f"there are {len(rest)}: lower `splits` in config.yaml"
        )

    def take(candidates, count, name):
        return splits.balanced(candidates, labels, keys, count, f"{seed}/{name}")

    val = given or sorted(take(rest, sizes["val"], "val"))
    rest = sorted(set(rest) - set(val))
    select = sorted(take(rest, sizes["select"], "select"))
    train = sorted(set(rest) - set(select))
    return {"train": train, "calib": take(train, sizes["calib"], "calib"), "select": select, "val": val}


def _describe(root, found, labels, parts, hash_all):
    measured = set(range(len(found))) if hash_all else set(parts["calib"] + parts["select"] + parts["val"])
    paths = [os.path.join(root, path) for path, _, _ in found]
    hashes = {}
    with progress.bar(len(measured), "index") as bar, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for position, digest in zip(sorted(measured), pool.map(sha256_file, (paths[p] for p in sorted(measured)))):
            hashes[position] = digest
            bar.update(1)
    images = []
    for position, (path, _, _) in enumerate(found):
        size = os.path.getsize(paths[position])
        if size == 0:
            raise UserError(f"image {paths[position]} is empty: replace or remove it")
        images.append({"path": path, "label": labels[position], "bytes": size, "sha256": hashes.get(position)})
    return images
