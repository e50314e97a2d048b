"""Find the images of a dataset in class folders, in flat folders with a label file, or in tar archives of either."""

import collections
import functools
import os
import posixpath
import re
import sys
import tarfile
from typing import NamedTuple

from core.files import UserError
from data import class_order, image_formats, index, labels, source, walk

HALVES = ("train", "val")
PATH_KEYS = (*HALVES, "labels", "synsets", "class_order", "manifest")  # keys of a row that may hold a path
OUTSIDE, BESIDE = "outside train and val", "beside the class folders"
FORMATS = ", ".join(image_formats.FORMATS)
IN_TAR = "link or other entry of an archive"
SPLIT = re.compile(
    r"(train|training|val|valid|validation|validate|test|testing|dev|eval|evaluation|holdout)"
    r"([-_ ]?(set|data|images?|imgs?|split|\d+))?",
    re.IGNORECASE,
)


class ImageFile(NamedTuple):
    """An image: its path relative to the dataset's root (in an archive, its name there), size and origin."""

    path: str
    bytes: int
    changed: int | None  # nanoseconds since 1970
    archive: str | None = None
    offset: int | None = None
    name: str = ""  # of its class
    half: str | None = None  # train, val, or None if the layout does not tell

    @property
    def source(self) -> index.Source:
        """Return where its bytes are, relative to the dataset's root."""
        return index.source_of(self.path, self.bytes, self.archive, self.offset)


class Layout(NamedTuple):
    """Images sorted by path, classes in their order, that order, and counts of the files left out by reason."""

    images: list[ImageFile]
    classes: list[str]
    order: class_order.Order
    left_out: collections.Counter  # of reasons


def find(root: str, row: dict) -> Layout:
    """Return the Layout of a row of `datasets` in the folder `root`.

    Raises UserError if there is no image, if a class or a half is missing, or if a label is not understood.
    """
    left_out = collections.Counter()
    order = class_order.Order(row, lambda path: below(root, path))
    places = _places(root, row, left_out)
    of_half = {}
    for half in sorted(places, key=lambda half: half != "train"):  # train first: its folders may name the classes
        known = order.all or (order.of({image.name for image in of_half["train"]}) if "train" in of_half else None)
        of_half[half] = _labelled(root, places[half], half, row, known, left_out)
        if not _is_flat(half, row) and order.all is None:
            _check_splits(places[half], {image.name for image in of_half[half]})
    _check_halves(root, of_half, order, flat=bool(row.get("labels")))
    images = sorted((i for half in of_half.values() for i in half), key=lambda i: (i.path, i.archive or ""))
    return Layout(images, order.all or _all_names(images, of_half, row, order), order, left_out)


def _is_flat(half, row):
    return bool(row.get("labels")) and half != "train"


def _places(root, row, left_out):
    """Return {half: folder or archive}; the half is None if one folder holds all images."""
    if not os.path.isdir(root):
        raise UserError(f"dataset folder {root} {_missing(root)}: correct `path` in config.yaml")
    places = {half: below(root, row.get(half) or half) for half in HALVES}
    places = {half: place for half, place in places.items() if row.get(half) or os.path.isdir(place)}
    for half, place in places.items():
        if not os.path.exists(place):
            raise UserError(f"{place} {_missing(place)}: correct `{half}` of the dataset in config.yaml")
    if list(places) == ["train"]:
        others = [name for name in walk.folders(root) if SPLIT.fullmatch(name) and below(root, name) != places["train"]]
        hint = _named_halves(others) or "`val: FOLDER` in its row names a folder of another name"
        raise UserError(f"dataset folder {root} has train/ but no val/: add it, or use the class folders; {hint}")
    real = [os.path.join(os.path.realpath(place), "") for place in places.values()]
    if len(real) == 2 and (real[0].startswith(real[1]) or real[1].startswith(real[0])):
        both = " and ".join(places.values())
        raise UserError(f"{both} share images: `train` and `val` of the dataset must be separate folders")
    if places:
        left_out[OUTSIDE] += _outside(root, row, places)
    return places or {None: root}


def _missing(path):
    """Return what is wrong with a path that does not exist."""
    return f"is a link to {os.readlink(path)}, which does not exist" if os.path.islink(path) else "does not exist"


def _outside(root, row, places):
    """Count the visible entries of the root that are neither a half nor named by the row."""
    named = {os.path.relpath(below(root, path), root).split(os.sep)[0] for path in _paths(row) if path != "imagenet"}
    named |= {os.path.relpath(place, root).split(os.sep)[0] for place in places.values()}
    return sum(not walk.is_hidden(name) and name not in named for name in os.listdir(root))


def _paths(row):
    return [row[key] for key in PATH_KEYS if row.get(key)]


def below(root: str, path: str) -> str:
    """Return a row's path, which is relative to the root of its dataset; `imagenet` is not a path."""
    return path if path == "imagenet" else os.path.join(root, path)


def _labelled(root, place, half, row, names, left_out):
    """Return the images of a folder or archive, with their classes."""
    flat = _is_flat(half, row)
    named = {os.path.realpath(below(root, path)) for path in _paths(row)}
    images = _members(place, root, left_out) if os.path.isfile(place) else _files(place, root, flat, named, left_out)
    if not images:
        raise UserError(f"{place} holds no image ({FORMATS}): correct `path` or `val` of the dataset")
    if not flat:
        return [i._replace(name=name, half=half) for i, name in zip(images, _folders(images, place, root))]
    images.sort(key=lambda image: (posixpath.basename(image.path), image.path))
    kit = below(root, row["synsets"]) if row.get("synsets") else None
    of_each = labels.assign([i.path for i in images], below(root, row["labels"]), names, row["classes"], kit)
    return [i._replace(name=name, half=half) for i, name in zip(images, of_each)]


def _files(place, root, flat, named, left_out):
    """Return the images below a folder; unless it is flat, those in class folders alone.

    named: real paths of the row's files, which are not counted as left out.
    """
    prefix, images = _prefix(place, root), []
    for path, state in walk.files(place, left_out):
        file = os.path.join(place, path)
        reason = image_formats.refusal(
            posixpath.basename(path), state.st_size, functools.partial(image_formats.head_of, file)
        )
        if reason is None:
            images.append(ImageFile(_plain(prefix + path), state.st_size, state.st_mtime_ns))
        elif os.path.realpath(file) not in named:
            left_out[reason] += 1
    return images if flat else _in_folders(images, place, prefix, left_out)


def _in_folders(images, place, prefix, left_out):
    """Return the images in class folders; raise UserError if there is no such folder or one is empty."""
    folders = walk.folders(place)
    inside = [image for image in images if "/" in image.path[len(prefix) :]]
    if not folders and images:
        raise UserError(f"{place} holds images but no class folders: name the file of their labels in `labels`")
    if not folders:
        raise UserError(f"dataset folder {place} is empty: it must hold one folder per class")
    filled = {image.path[len(prefix) :].split("/")[0] for image in inside}
    empty = [os.path.join(place, name) for name in folders if name not in filled]
    if empty:
        to = f", and is a link to {os.path.realpath(empty[0])}" if os.path.islink(empty[0]) else ""
        raise UserError(f"class folder {empty[0]} holds no image ({FORMATS}){to}: fill it, or remove it")
    left_out[BESIDE] += len(images) - len(inside)
    return inside


def _prefix(place, root):
    below = os.path.relpath(place, root).replace(os.sep, "/")
    return "" if below == "." else f"{place if below.startswith('..') else below}/"


def _plain(path):
    if "\t" in path or "\n" in path:
        raise UserError(f"image {path!r} has a tab or a newline in its name: rename it")
    return path


def _members(place, root, left_out):
    """Return the images of an uncompressed tar."""
    prefix, images = _prefix(place, root)[:-1], {}
    try:
        with tarfile.open(place, "r:") as archive, open(place, "rb") as stream:
            for member in archive:
                name = posixpath.normpath(member.name).lstrip("/")
                reason = _member_refusal(member, name, stream)
                if reason is None:  # the last member of a name wins, as in unpacking
                    changed = source.member_changed(stream, member.offset_data, member.size)
                    images[name] = ImageFile(_plain(name), member.size, changed, prefix, member.offset_data)
                elif not member.isdir():
                    left_out[reason] += 1
                archive.members.clear()  # type: ignore[attr-defined]  # else tarfile holds them all in memory
    except tarfile.TarError as error:
        raise UserError(f"{place} is not a complete, uncompressed tar ({error}): copy it again, or unpack it") from None
    return list(images.values())


def _member_refusal(member, name, stream):
    """Return why an entry of the tar open as `stream` is not an image, or None."""
    if any(map(walk.is_hidden, name.split("/"))):
        return walk.HIDDEN
    if not member.isfile() or member.issparse():
        return IN_TAR

    def head():
        stream.seek(member.offset_data)
        return stream.read(min(image_formats.HEAD, member.size))

    return image_formats.refusal(posixpath.basename(name), member.size, head)


def _folders(images, place, root):
    """Return the class folder of each image of a half; a single folder at the top of an archive is skipped."""
    start = 0 if images[0].archive else len(_prefix(place, root))
    while (
        images[0].archive and len({i.path[start:].partition("/")[0] for i in images}) == 1 and _above(images, start) > 1
    ):
        start = images[0].path.index("/", start) + 1
    if not _above(images, start):
        raise UserError(f"{place} holds images but no class folders: name the file of their labels in `labels`")
    return [sys.intern(image.path[start : image.path.index("/", start)]) for image in images]


def _above(images, start):
    """Return how many folders each image is in at least, below the first `start` characters of its path."""
    return min(image.path.count("/", start) for image in images)


def _check_splits(place, names):
    """Raise UserError if class folders have names of splits: they would mix all classes."""
    splits = sorted(name for name in names if SPLIT.fullmatch(name))
    if splits:
        remedy = _named_halves(sorted(names)) or "correct `path`, or name the halves with `train` and `val`"
        raise UserError(
            f"{place}: class folders {' and '.join(splits[:2])} have names of splits: {remedy} in the dataset's row "
            "(if they are classes, list them in a file: `class_order`)"
        )


def _named_halves(names):
    """Return a remedy that names folders as halves by their names of splits, or None if the names do not tell."""
    splits = [name for name in names if SPLIT.fullmatch(name)]
    train = [name for name in splits if name.lower().startswith("train")]
    others = sorted(set(splits) - set(train), key=lambda name: (not name.lower().startswith(("val", "dev")), name))
    keys = [f"`{half}: {several[0]}`" for half, several in zip(HALVES, (train, others)) if several]
    return f"set {' and '.join(keys)}" if others else None


def _check_halves(root, of_half, order, flat):
    """Raise UserError if a half has an unknown class or lacks one."""
    names = {half: {image.name for image in images} for half, images in of_half.items()}
    if order.all is not None:
        class_order.check_known(set().union(*names.values()), order, root)
    elif len(of_half) == 2 and not flat and names["train"] != names["val"]:
        odd = ", ".join(sorted(names["train"] ^ names["val"])[:5])
        remedy = "add what is missing, or list all classes in a file (`class_order`)"
        raise UserError(f"dataset folder {root}: classes differ between train/ and val/: {odd}: {remedy}")


def _all_names(images, of_half, row, order):
    """Return the names of the classes present, or of all classes if they are unnamed numbers."""
    names = {image.name for image in of_half.get("train", images)}
    if all(name.isdigit() for name in names) and row.get("labels") and "train" not in of_half:
        return labels.numbered(row["classes"])
    return order.of(names)
