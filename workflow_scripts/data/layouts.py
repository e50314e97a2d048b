"""Where the images of a dataset are: class folders, flat folders with a file of labels, tar archives of either."""

import collections
import os
import posixpath
import re
import tarfile
from typing import NamedTuple

from core.files import UserError
from data import class_order, image_formats, labels, source, walk

HALVES = ("train", "val")
GIVEN = (*HALVES, "labels", "synsets", "class_order")  # keys of a row that may name a path
OUTSIDE, BESIDE = "outside train and val", "beside the class folders"
IN_TAR = "link or other entry of an archive"
SPLIT = re.compile(
    r"(train|training|val|valid|validation|validate|test|testing|dev|eval|evaluation|holdout)"
    r"([-_ ]?(set|data|images?|imgs?|split|\d+))?",
    re.IGNORECASE,
)


class Found(NamedTuple):
    """An image: its path relative to the dataset's root (in an archive: its name there), and what is seen of it."""

    path: str
    bytes: int
    changed: int  # nanoseconds since 1970
    archive: str | None = None
    offset: int | None = None
    name: str | None = None  # its class
    half: str | None = None  # train, val, or None where the folder says nothing


class Layout(NamedTuple):
    """Images sorted by path, classes in their order, that order, and counts of the files left out by reason."""

    images: list
    classes: list
    order: class_order.Order
    left_out: collections.Counter  # of reasons


def find(root, row):
    """Return the Layout of a row of `datasets` with the folder root.

    Raises UserError where there is no image, a class or a half is missing, or a label is not understood.
    """
    left_out = collections.Counter()
    order = class_order.Order(row, lambda path: below(root, path))
    places = _places(root, row, left_out)
    of_half = {}
    for half in sorted(places, key=lambda half: half != "train"):  # whose folders may be the only ones to name classes
        known = order.all or (order.of({image.name for image in of_half["train"]}) if "train" in of_half else None)
        of_half[half] = _labelled(root, places[half], half, row, known, left_out)
        if not _is_flat(half, row) and order.all is None:
            _check_splits(places[half], {image.name for image in of_half[half]})
    _check_halves(root, of_half, order, flat=bool(row.get("labels")))
    found = sorted((i for images in of_half.values() for i in images), key=lambda i: (i.path, i.archive or ""))
    return Layout(found, order.all or _all_names(found, of_half, row, order), order, left_out)


def _is_flat(half, row):
    return bool(row.get("labels")) and half != "train"


def _places(root, row, left_out):
    """Return {half: folder or archive}; the half is None where one folder has all images."""
    if not os.path.isdir(root):
        raise UserError(f"dataset folder {root} {_missing(root)}: correct `path` in config.yaml")
    places = {half: below(root, row.get(half) or half) for half in HALVES}
    places = {half: place for half, place in places.items() if row.get(half) or os.path.isdir(place)}
    for half, place in places.items():
        if not os.path.exists(place):
            raise UserError(f"{place} {_missing(place)}: correct `{half}` of the dataset in config.yaml")
    if list(places) == ["train"]:
        others = [name for name in walk.folders(root) if SPLIT.fullmatch(name) and below(root, name) != places["train"]]
        found = _named_halves(others) or "`val: FOLDER` in its row names one of another name"
        raise UserError(f"dataset folder {root} has train/ but no val/: add it, or give the class folders; {found}")
    if len(places) == 2:
        _check_apart(*places.values())
    if places:
        left_out[OUTSIDE] += _outside(root, row, places)
    return places or {None: root}


def _missing(path):
    """Return what is wrong with a path that leads nowhere."""
    return f"is a link to {os.readlink(path)}, which is not there" if os.path.islink(path) else "does not exist"


def _check_apart(*places):
    """Raise UserError where one half lies in the other: its images would be in both."""
    train, val = (os.path.join(os.path.realpath(place), "") for place in places)
    if train.startswith(val) or val.startswith(train):
        raise UserError(f"{places[0]} and {places[1]} share images: `train` and `val` of the dataset must lie apart")


def _outside(root, row, places):
    """Return how many entries of the root are neither hidden, nor of a half, nor named by the row."""
    named = {os.path.relpath(below(root, path), root).split(os.sep)[0] for path in _given(row) if path != "imagenet"}
    named |= {os.path.relpath(place, root).split(os.sep)[0] for place in places.values()}
    return sum(not walk.is_hidden(name) and name not in named for name in os.listdir(root))


def _given(row):
    return [row[key] for key in GIVEN if row.get(key)]


def below(root, path):
    """Return where a row's path is: relative to the root of its dataset."""
    return path if path == "imagenet" else os.path.join(root, path)


def _labelled(root, place, half, row, names, left_out):
    """Return the [Found] of a folder or archive, with their classes."""
    flat = _is_flat(half, row)
    own = {os.path.realpath(below(root, path)) for path in _given(row)}
    images = list(
        _members(place, root, left_out) if os.path.isfile(place) else _files(place, root, flat, own, left_out)
    )
    if not images:
        raise UserError(f"{place} holds no image ({_spoken()}): correct `path` or `val` of the dataset")
    if not flat:
        return [i._replace(name=name, half=half) for i, name in zip(images, _folders(images, place, root))]
    images.sort(key=lambda image: posixpath.basename(image.path))
    kit = below(root, row["synsets"]) if row.get("synsets") else None
    of_each = labels.assign([i.path for i in images], below(root, row["labels"]), names, row["classes"], kit)
    return [i._replace(name=name, half=half) for i, name in zip(images, of_each)]


def _spoken():
    return ", ".join(image_formats.FORMATS)


def _files(place, root, flat, own, left_out):
    """Return the images below a folder; without a file of labels only those in class folders, each of which has some.

    own: real paths of the row's files, which are not counted as left out.
    """
    prefix, images = _prefix(place, root), []
    for path, state in walk.files(place, left_out):
        file = os.path.join(place, path)
        reason = image_formats.refusal(posixpath.basename(path), state.st_size, lambda file=file: _head(file))
        if reason is None:
            images.append(Found(_plain(prefix + path), state.st_size, state.st_mtime_ns))
        elif os.path.realpath(file) not in own:
            left_out[reason] += 1
    return images if flat else _in_folders(images, place, prefix, left_out)


def _in_folders(images, place, prefix, left_out):
    """Return those of the images that are in a class folder; raise UserError where there is none or one is empty."""
    folders = walk.folders(place)
    inside = [image for image in images if "/" in image.path[len(prefix) :]]
    if not folders and images:
        raise UserError(f"{place} holds images and no class folders: name the file of their labels in `labels`")
    if not folders:
        raise UserError(f"dataset folder {place} is empty: it must hold one folder a class")
    filled = {image.path[len(prefix) :].split("/")[0] for image in inside}
    empty = [os.path.join(place, name) for name in folders if name not in filled]
    if empty:
        to = f", and is a link to {os.path.realpath(empty[0])}" if os.path.islink(empty[0]) else ""
        raise UserError(f"class folder {empty[0]} holds no image ({_spoken()}){to}: fill it, or remove it")
    left_out[BESIDE] += len(images) - len(inside)
    return inside


def _head(file):
    with open(file, "rb") as stream:
        return stream.read(image_formats.HEAD)


def _prefix(place, root):
    below = os.path.relpath(place, root).replace(os.sep, "/")
    return "" if below == "." else f"{place if below.startswith('..') else below}/"


def _plain(path):
    if "\t" in path or "\n" in path:
        raise UserError(f"image {path!r} has a tab or a line's end in its name: rename it")
    return path


def _members(place, root, left_out):
    """Return the images of an uncompressed tar; what is in a single folder of it counts as if it were above."""
    prefix, found = _prefix(place, root)[:-1], {}
    try:
        with tarfile.open(place, "r:") as archive, open(place, "rb") as stream:
            for member in archive:
                name = posixpath.normpath(member.name).lstrip("/")
                reason = _member_refusal(member, name, stream)
                if reason is None:  # the last one of a name is the one that unpacking would leave
                    changed = source.member_changed(stream, member.offset_data, member.size)
                    found[name] = Found(_plain(name), member.size, changed, prefix, member.offset_data)
                elif not member.isdir():
                    left_out[reason] += 1
                archive.members.clear()  # else it keeps them all
    except tarfile.TarError as error:
        raise UserError(f"{place} is no whole, uncompressed tar ({error}): copy it again, or unpack it") from None
    return found.values()


def _member_refusal(member, name, stream):
    """Return why an entry of a tar that is open as `stream` is no image, or None."""
    if any(map(walk.is_hidden, name.split("/"))):
        return walk.HIDDEN
    if not member.isfile() or member.issparse():
        return IN_TAR

    def head():
        stream.seek(member.offset_data)
        return stream.read(min(image_formats.HEAD, member.size))

    return image_formats.refusal(posixpath.basename(name), member.size, head)


def _folders(images, place, root):
    """Return the class folder of each image of a half."""
    prefix = "" if images[0].archive else _prefix(place, root)
    parts = [image.path[len(prefix) :].split("/") for image in images]
    while images[0].archive and min(map(len, parts)) > 2 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    if min(map(len, parts)) < 2:
        raise UserError(f"{place} holds images and no class folders: name the file of their labels in `labels`")
    return [part[0] for part in parts]


def _check_splits(place, names):
    """Raise UserError where class folders have names of splits: they hold all classes, mixed."""
    found = sorted(name for name in names if SPLIT.fullmatch(name))
    if found:
        remedy = _named_halves(sorted(names)) or "correct `path`, or name the halves with `train` and `val`"
        raise UserError(
            f"{place}: the class folders {' and '.join(found[:2])} have names of splits: {remedy} in the dataset's row "
            "(if they are classes, name all of them in a file: `class_order`)"
        )


def _named_halves(names):
    """Return the keys that make halves of folders with names of splits, or None where which is which is open."""
    splits = [name for name in names if SPLIT.fullmatch(name)]
    train = [name for name in splits if name.lower().startswith("train")]
    others = sorted(set(splits) - set(train), key=lambda name: (not name.lower().startswith(("val", "dev")), name))
    keys = [f"`{half}: {several[0]}`" for half, several in zip(HALVES, (train, others)) if several]
    return f"give {' and '.join(keys)}" if others else None


def _check_halves(root, of_half, order, flat):
    """Raise UserError where a class is strange or missing in a half."""
    names = {half: {image.name for image in images} for half, images in of_half.items()}
    if order.all is not None:
        class_order.check_known(set().union(*names.values()), order, root)
    elif len(of_half) == 2 and not flat and names["train"] != names["val"]:
        odd = ", ".join(sorted(names["train"] ^ names["val"])[:5])
        raise UserError(
            f"dataset folder {root}: classes differ between train/ and val/: {odd}: add what is missing, or name all "
            "classes in a file (`class_order`)"
        )


def _all_names(found, of_half, row, order):
    """Return the names of the classes that are there, or, of numbers that nobody named, all of them."""
    names = {image.name for image in of_half.get("train", found)}
    if all(name.isdigit() for name in names) and row.get("labels") and "train" not in of_half:
        return labels.numbered(row["classes"])
    return order.of(names)
