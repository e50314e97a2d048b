"""In which order classes are numbered, which is that of a network's outputs: a row's `class_order`.

sorted: by code points, as torchvision does; natural: numbers in names count as numbers, as in timm's reader of folders;
else a file that names all classes in their order:

| file | readable name |
| --- | --- |
| one folder a line | none |
| folder, tab, name; or synset, space, name (ImageNet's LOC_synset_mapping.txt) | the name |
| JSON list of folders, or of [folder, name] | none, or the name |
"""

import collections
import json
import re

from configuration.schema import nearest
from core.files import UserError
from data import labels

SYNSET = re.compile(r"(n\d{8})\s+(\S.*)")
NUMBER = re.compile(r"(\d+)")
SHOWN = 4  # classes that a line names


def natural(name):
    """Return the key that timm's reader sorts names by."""
    return [int(part) if part.isdecimal() else part for part in NUMBER.split(name.lower())]


ORDERS = {"sorted": lambda name: name, "natural": natural}


class Order:
    """The order that a row of `datasets` asks for; `all` are all classes in it where a file names them, else None."""

    def __init__(self, row, path_of):
        """Read the files that the row names. path_of: function of a row's path that returns where that is."""
        given = row.get("class_order")
        self.given, self.name = bool(given or row.get("builtin")), given if given in ORDERS else "file"
        self.name = self.name if given else "sorted"
        self.titles, self.all = None, labels.class_names(path_of(row["synsets"])) if row.get("synsets") else None
        if self.name == "file":
            self._read(path_of(given))
        elif self.all is not None:
            self.all = self.of(self.all)

    def _read(self, path):
        listed = _listed(path)
        names = [name for name, _ in listed]
        twice = [name for name, count in collections.Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{path} names the class {twice[0]!r} twice: `class_order` needs each once")
        strange = sorted(set(names) ^ set(names if self.all is None else self.all))
        if strange:
            raise UserError(f"{path} and `synsets` differ in {strange[0]!r}: `class_order` alone is enough")
        self.all = names
        self.titles = [title or name for name, title in listed] if any(title for _, title in listed) else None

    def of(self, names):
        """Return the names of the classes in their order."""
        if self.name == "file":
            return self.all
        found = sorted(sorted(names), key=ORDERS[self.name])
        for one, other in zip(found, found[1:]) if self.name == "natural" else ():
            if natural(one) == natural(other):
                raise UserError(
                    f"{one!r} and {other!r} are equal in natural order: give a file of names (`class_order`)"
                )
        return found

    def described(self, classes):
        """Return what an index says of the order: order, given (by the row), natural_differs."""
        differs = sorted(classes, key=natural) != sorted(classes)
        return {"order": self.name, "given": self.given, "natural_differs": differs}


def warning(index):
    """Return the line that says which order was taken where the row is silent and another is likely, or None."""
    said = index.get("class_order") or {}
    if said.get("given", True) or not said["natural_differs"]:
        return None
    taken, other = (", ".join(sorted(index["classes"], key=key)[:SHOWN]) for key in ORDERS.values())
    return (
        f"classes are in sorted order ({taken} ...), and natural order is another ({other} ...): `class_order` in the "
        "dataset's row (sorted, natural, or a file of names) says which one the weights have learned"
    )


def _listed(path):
    """Return [(class, readable name or None)] of a file; raise UserError where it names none or is not understood."""
    lines = labels.lines_of(path, "class_order")
    if lines[0].startswith(("[", "{")):
        return [_entry(item, path) for item in _parsed(path)]
    synsets = [SYNSET.fullmatch(line) for line in lines]
    if all(synsets):
        return [found.groups() for found in synsets]
    pairs = [line.split("\t", 1) for line in lines]
    return [_entry([part.strip() for part in pair] if len(pair) > 1 else pair[0], path) for pair in pairs]


def _parsed(path):
    try:
        with open(path, encoding="utf-8-sig") as stream:
            found = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}): `class_order` takes a list of names, or of [folder, name]"
        ) from None
    if not isinstance(found, list) or not found:
        raise UserError(f"{path} holds no list: `class_order` takes a list of names, or of [folder, name]")
    return found


def _entry(item, path):
    pair = [item, None] if isinstance(item, str) else item
    texts = (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and isinstance(pair[1], (str, type(None)))
    )
    if not texts or not all(text is None or (text.strip() and text.isprintable()) for text in pair):
        raise UserError(f"{path}: {str(item)[:60]!r} is no class: `class_order` takes a name, or [folder, name]")
    return tuple(pair)


def check_known(names, order, root):
    """Raise UserError where a folder or a label is of a class that the row's files do not name."""
    strange = sorted(set(names) - set(order.all))
    if strange:
        key = "class_order" if order.name == "file" else "synsets"
        raise UserError(
            f"dataset folder {root}: `{key}` has no class {', '.join(strange[:5])}: correct either "
            f"({nearest(strange[0], order.all)})"
        )
