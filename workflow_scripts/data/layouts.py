"""Where the images of a dataset are: class folders, flat folders with a file of labels, tar archives of either."""

import os
import posixpath
import tarfile
from typing import NamedTuple

from data import labels
from files import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
HALVES = ("train", "val")


class Found(NamedTuple):
    """An image: its path relative to the dataset's root (in an archive: its name there), and what is seen of it."""

    path: str
    bytes: int
    changed: int  # nanoseconds since 1970
    archive: str | None = None
    offset: int | None = None
    name: str | None = None  # its class
    half: str | None = None  # train, val, or None where the folder says nothing


def find(root, row):
    """Return ([Found] sorted by path, [class name] sorted) of a row of `datasets` with the folder root.

    Raises UserError where there is no image, a class or a half is missing, or a label is not understood.
    """
    places = _places(root, row)
    names = labels.class_names(_below(root, row["synsets"])) if row.get("synsets") else None
    of_half = {}
    for half in sorted(places, key=lambda half: half != "train"):  # whose folders may be the only ones to name classes
        known = names or (sorted({image.name for image in of_half["train"]}) if "train" in of_half else None)
        of_half[half] = _labelled(root, places[half], half, row, known)
    _check_halves(root, of_half, names, flat=bool(row.get("labels")))
    found = sorted((i for images in of_half.values() for i in images), key=lambda i: (i.path, i.archive or ""))
    return found, names or _all_names(found, of_half, row)


def _places(root, row):
    """Return {half: folder or archive}; the half is None where one folder has all images."""
    if not os.path.isdir(root):
        raise UserError(f"dataset folder {root} does not exist: correct `path` in config.yaml")
    places = {half: os.path.join(root, half) for half in HALVES if os.path.isdir(os.path.join(root, half))}
    if row.get("val"):
        places["val"] = _below(root, row["val"])
        if not os.path.exists(places["val"]):
            raise UserError(f"{places['val']} does not exist: correct `val` of the dataset in config.yaml")
    if list(places) == ["train"]:
        raise UserError(f"dataset folder {root} has train/ but no val/: add it, or give the class folders")
    return places or {None: root}


def _below(root, path):
    return path if path == "imagenet" else os.path.join(root, path)


def _labelled(root, place, half, row, names):
    """Return the [Found] of a folder or archive, with their classes."""
    flat = row.get("labels") if half != "train" else None
    images = list(_members(place, root) if os.path.isfile(place) else _files(place, root, flat))
    if not images:
        raise UserError(f"{place} holds no image ({', '.join(SUFFIXES)}): correct `path` or `val` of the dataset")
    if flat:
        images.sort(key=lambda image: posixpath.basename(image.path))
        of_each = labels.assign(
            [image.path for image in images], _below(root, flat), names, row["classes"], _kit(root, row)
        )
    else:
        of_each = _folders(images, place, root)
    return [image._replace(name=name, half=half) for image, name in zip(images, of_each)]


def _kit(root, row):
    return _below(root, row["synsets"]) if row.get("synsets") else None


def _files(place, root, flat):
    """Yield the images below a folder; without a file of labels only those in class folders, each of which has some."""
    inside = sorted((e for e in os.scandir(place) if not e.name.startswith(".")), key=lambda entry: entry.name)
    folders = [entry for entry in inside if entry.is_dir()]
    loose = [entry for entry in inside if not entry.is_dir() and _is_image(entry.name)]
    prefix = _prefix(place, root)
    if flat:
        yield from (_described(entry, prefix + entry.name) for entry in loose)
    elif loose and not folders:
        raise UserError(f"{place} holds images and no class folders: name the file of their labels in `labels`")
    elif not folders:
        raise UserError(f"dataset folder {place} is empty: it must hold one folder a class")
    for folder in folders:
        count = 0
        for entry, below in _walk(folder.path, prefix + folder.name):
            yield _described(entry, below)
            count += 1
        if not count and not flat:
            raise UserError(f"class folder {folder.path} holds no image ({', '.join(SUFFIXES)})")


def _prefix(place, root):
    below = os.path.relpath(place, root).replace(os.sep, "/")
    return "" if below == "." else f"{place if below.startswith('..') else below}/"


def _walk(folder, below):
    """Yield (entry, path) of the images in a folder and all below it."""
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _walk(entry.path, f"{below}/{entry.name}")
        elif _is_image(entry.name):
            yield entry, f"{below}/{entry.name}"


def _is_image(name):
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _plain(path):
    if "\t" in path or "\n" in path:
        raise UserError(f"image {path!r} has a tab or a line's end in its name: rename it")
    return path


def _described(entry, path):
    state = entry.stat()
    return Found(_plain(path), state.st_size, state.st_mtime_ns)


def _members(place, root):
    """Yield the images of an uncompressed tar; what is in a single folder of it counts as if it were above."""
    prefix = _prefix(place, root)[:-1]
    try:
        with tarfile.open(place, "r:") as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if member.isfile() and _is_image(posixpath.basename(name)):
                    yield Found(_plain(name), member.size, int(member.mtime * 10**9), prefix, member.offset_data)
                archive.members.clear()  # else it keeps them all
    except tarfile.TarError as error:
        raise UserError(f"{place} is no whole, uncompressed tar ({error}): copy it again, or unpack it") from None


def _folders(images, place, root):
    """Return the class folder of each image of a half."""
    prefix = "" if images[0].archive else _prefix(place, root)
    parts = [image.path[len(prefix) :].split("/") for image in images]
    while images[0].archive and min(map(len, parts)) > 2 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    if min(map(len, parts)) < 2:
        raise UserError(f"{place} holds images and no class folders: name the file of their labels in `labels`")
    return [part[0] for part in parts]


def _check_halves(root, of_half, names, flat):
    """Raise UserError where a class is strange or missing in a half."""
    if names is not None:
        strange = sorted({image.name for images in of_half.values() for image in images} - set(names))
        if strange:
            raise UserError(f"dataset folder {root}: `synsets` has no class {', '.join(strange[:5])}: correct either")
    elif len(of_half) == 2 and not flat:
        train, val = ({image.name for image in of_half[half]} for half in HALVES)
        if train != val:
            odd = ", ".join(sorted(train ^ val)[:5])
            raise UserError(f"dataset folder {root}: classes differ between train/ and val/: {odd}")


def _all_names(found, of_half, row):
    """Return the names of the classes that are there, or, of numbers that nobody named, all of them."""
    names = sorted({image.name for image in of_half.get("train", found)})
    if all(name.isdigit() for name in names) and row.get("labels") and "train" not in of_half:
        return labels.numbered(row["classes"])
    return names
