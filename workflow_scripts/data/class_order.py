"""The order of the classes, which is that of the network's outputs: `class_order` of a dataset's row.

`sorted` orders by code points, as torchvision does; `natural` compares digits in names as numbers, as timm's folder
reader does; any other value is a file that lists all classes in their order:

| file | readable name |
| --- | --- |
| one folder a line | none |
| folder, tab, name; or synset, space, name (ImageNet's LOC_synset_mapping.txt) | the name |
| JSON list of folders, or of [folder, name] | none, or the name |
"""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Callable, Iterable

from core.files import UserError
from core.suggest import nearest
from data import labels

SYNSET = re.compile(r"(n\d{8})\s+(\S.*)")
NUMBER = re.compile(r"(\d+)")
SHOWN = 4  # classes that a warning quotes


def natural(name: str) -> list[str | int]:
    """Return the key by which timm's folder reader sorts names."""
    return [int(part) if part.isdecimal() else part for part in NUMBER.split(name.lower())]


ORDERS = {"sorted": lambda name: name, "natural": natural}


class Order:
    """The order that a row of `datasets` asks for; `all` lists the classes if a file names them, else it is None."""

    def __init__(self, row: dict, path_of: Callable[[str], str]) -> None:
        """Read the files that the row names. path_of: function that resolves a path of the row."""
        wanted = row.get("class_order")
        self.explicit = bool(wanted or row.get("builtin"))
        self.name = wanted if wanted in ORDERS else "file" if wanted else "sorted"
        self.titles: list[str] | None = None
        self.all = labels.class_names(path_of(row["synsets"])) if row.get("synsets") else None
        if self.name == "file":
            self._read(path_of(row["class_order"]))
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

    def of(self, names: Iterable[str]) -> list[str]:
        """Return the names in this order; raise UserError if natural order leaves two of them equal."""
        if self.name == "file" and self.all is not None:
            return self.all
        ordered = sorted(sorted(names), key=ORDERS[self.name])
        for one, other in zip(ordered, ordered[1:]) if self.name == "natural" else ():
            if natural(one) == natural(other):
                equal = f"{one!r} and {other!r} are equal in natural order"
                raise UserError(f"{equal}: list the classes in a file (`class_order`)")
        return ordered

    def described(self, classes: list[str]) -> dict:
        """Return the index's record: order, given (whether the row names it), natural_differs."""
        differs = sorted(classes, key=natural) != sorted(classes)
        return {"order": self.name, "given": self.explicit, "natural_differs": differs}


def warning(index: dict) -> str | None:
    """Return a warning if the row names no order and sorted and natural order differ, or None."""
    order = index.get("class_order") or {}
    if order.get("given", True) or not order["natural_differs"]:
        return None
    used, other = (", ".join(sorted(index["classes"], key=key)[:SHOWN]) for key in ORDERS.values())
    return (
        f"classes are in sorted order ({used} ...), natural order differs ({other} ...): set `class_order` in the "
        "dataset's row (sorted, natural, or a file of names) to the order that the weights were trained with"
    )


def _listed(path):
    """Return [(class, readable name or None)] of a file; raise UserError if it has another form."""
    lines = labels.lines_of(path, "class_order")
    if lines[0].startswith(("[", "{")):
        return [_entry(item, path) for item in _parsed(path)]
    synsets = [match.groups() for match in map(SYNSET.fullmatch, lines) if match]
    if len(synsets) == len(lines):
        return synsets
    pairs = [line.split("\t", 1) for line in lines]
    return [_entry([part.strip() for part in pair] if len(pair) > 1 else pair[0], path) for pair in pairs]


def _parsed(path):
    form = "`class_order` takes a list of names, or of [folder, name]"
    try:
        with open(path, encoding="utf-8-sig") as stream:
            entries = json.load(stream)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}): {form}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} is not a list: {form}")
    return entries


def _entry(item, path):
    pair = [item, None] if isinstance(item, str) else item
    named = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
    texts = [text for text in pair if text is not None] if named else []
    if not texts or not all(isinstance(text, str) and text.strip() and text.isprintable() for text in texts):
        raise UserError(f"{path}: {str(item)[:60]!r} is not a class: `class_order` takes a name, or [folder, name]")
    return tuple(pair)


def check_known(names: Iterable[str], order: Order, root: str) -> None:
    """Raise UserError if a folder or label names a class that the row's files do not list."""
    known = order.all or []
    strange = sorted(set(names) - set(known))
    if strange:
        key = "class_order" if order.name == "file" else "synsets"
        first, hint = ", ".join(strange[:5]), nearest(strange[0], known)
        raise UserError(f"dataset folder {root}: `{key}` has no class {first}: correct either ({hint})")
