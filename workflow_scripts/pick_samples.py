"""Copy three images of the val split, of classes far apart, for the bundles of a dataset."""

from __future__ import annotations

import os
import zipfile

from core.command import Command, Job
from core.files import canonical
from data import index, integrity

COUNT = 3


def run(args: Job) -> None:
    table = index.read(args.index)
    val, paths = index.images(table, "val"), index.files(table, args.index, "val")
    names = table.get("titles") or table["classes"]
    listing, members = [], {}
    for number, position in enumerate(positions(val.labels.tolist())):
        content = integrity.read(paths[position], val.stamps[position])
        file = f"{number}{os.path.splitext(str(val.sources[position]).lower())[1]}"
        label = int(val.labels[position])
        listing.append({"file": file, "label": label, "class": names[label]})
        members[file] = content
    with zipfile.ZipFile(args.samples, "w") as archive:
        for name, data in {"samples.json": canonical(listing).encode(), **members}.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo's own date is 1980-01-01


def positions(labels: list[int]) -> list[int]:
    """Return the positions of at most COUNT images: the first of the first, a middle and the last class."""
    known = sorted(set(labels))
    wanted = [known[number * (len(known) - 1) // (COUNT - 1)] for number in range(COUNT)]
    first = [labels.index(label) for label in dict.fromkeys(wanted)]
    others = [position for position in range(len(labels)) if position not in first]
    return (first + others)[:COUNT]


def command() -> Command:
    c = Command(__file__, __doc__)
    c.input("--index", help="index.json", content=content)
    return c.output("--samples", help="zip of the images with samples.json")


def content(args: Job) -> dict:
    """Return what decides the samples: labels and contents of the split, and the names of the classes."""
    table = index.read(args.index)
    labels = index.labels(table, "val").tolist()
    return {"labels": labels, "digests": index.digests(table, "val"), "names": table.get("titles") or table["classes"]}


if __name__ == "__main__":
    command().run(run)
