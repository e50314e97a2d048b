"""Decode and preprocess the images of a split once, in parallel, into one memory-mapped file of uint8.

A killed job resumes where it stopped. The store's key has the contents of the images, not their paths.
"""

from __future__ import annotations

import time

from core import resolved
from core.command import Command, Job, log
from data import index


def run(args: Job) -> None:
    from data import cache

    listing, start = index.read(args.index), time.monotonic()
    images = index.files(listing, args.index, args.split)
    geometry, digests = resolved.read(args.model, resolved.GEOMETRY), index.digests(listing, args.split)
    decoded = cache.write(args.images, images, geometry, args.workers, digests, args.code, args.final("images"))
    seconds = time.monotonic() - start
    log.info("%d of %d images in %.1f s: %.0f images/s", decoded, len(images), seconds, decoded / seconds)


def command() -> Command:
    c = Command(__file__, __doc__, tools=("numpy", "pillow"), heavy=True)
    c.input("--index", help="index.json", content=lambda args: index.digests(index.read(args.index), args.split))
    c.model(resolved.GEOMETRY)
    c.param("--split", required=True, choices=["calib", "select", "val"])
    c.output("--images", help=".npy of uint8 [N, size, size, 3]")
    return c.untracked("--workers", type=int, default=0, help="processes (0: one per core)")


if __name__ == "__main__":
    command().run(run)
