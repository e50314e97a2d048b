"""Decode and preprocess the images of a split, or a part of them, in parallel, into one memory-mapped file of uint8.

A killed job resumes where it stopped. The store's key has the contents of the images, not their paths.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from core import resolved
from core.command import Command, Job, log
from core.files import UserError
from data import index


def run(args: Job) -> None:
    from data import cache

    listing, start = index.read(args.index), time.monotonic()
    images, digests = part(args, index.files(listing, args.index, args.split)), digests_of(args)
    geometry = resolved.read(args.model, resolved.GEOMETRY)
    decoded = cache.write(args.images, images, geometry, args.workers, digests, args.code, args.final("images"))
    seconds = time.monotonic() - start
    log.info("%d of %d images in %.1f s: %.0f images/s", decoded, len(images), seconds, decoded / seconds)


def part(args: Job, images: Sequence) -> Sequence:
    """Return the images of a shard in their order, or all of them."""
    number, count = args.shard
    if count > len(images):
        few = f"{args.split} has {len(images)} images"
        raise UserError(f"{few}, fewer than `shards` of the dataset ({count}): lower it")
    return images[len(images) * (number - 1) // count : len(images) * number // count]


def digests_of(args: Job) -> Sequence[str]:
    """Return the SHA-256 of each image that is decoded."""
    return part(args, index.digests(index.read(args.index), args.split))


def shard(text: str) -> list[int]:
    """Return [number, count] of a text such as 3/8; raise ValueError if it is another."""
    number, count = map(int, text.split("/"))
    if not 1 <= number <= count:
        raise ValueError(text)
    return [number, count]


def command() -> Command:
    c = Command(__file__, __doc__, tools=("numpy", "pillow"), heavy=True)
    c.input("--index", help="index.json", content=digests_of)
    c.model(resolved.GEOMETRY)
    c.param("--split", required=True, choices=["calib", "select", "val"])
    c.output("--images", help=".npy of uint8 [N, size, size, 3]")
    c.untracked("--shard", type=shard, default=[1, 1], help="3/8: the third of eight parts (default: all)")
    return c.untracked("--workers", type=int, default=0, help="processes (0: one per core)")


if __name__ == "__main__":
    command().run(run)
