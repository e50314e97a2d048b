"""Decode and preprocess the images of a split once, in parallel, into one memory-mapped file of uint8.

A killed run goes on where it stopped. The store knows the result by the images' contents, not by where they are.
"""

from core import resolved
from core.command import Command, log
from core.files import canonical, partial_of

PARTIAL = partial_of("")  # what core/command.py adds to the name of an output while it is written


def produce(args):
    import time

    from data import cache, index

    listing, start = index.read(args.index), time.monotonic()
    images = index.files(listing, args.index, args.split)
    final = args.images[: -len(PARTIAL)] if args.images.endswith(PARTIAL) else args.images
    parts = command().key_parts(args)
    code = canonical([parts["code"], parts["tools"]])
    geometry, digests = resolved.read(args.model, resolved.GEOMETRY), index.digests(listing, args.split)
    decoded = cache.write(args.images, images, geometry, args.workers, digests, code, final)
    seconds = time.monotonic() - start
    log.info("%d of %d images in %.1f s: %.0f images/s", decoded, len(images), seconds, decoded / seconds)


def contents(args):
    """Return what decides the pixels: the SHA-256 of each image of the split."""
    from data import index

    return index.digests(index.read(args.index), args.split)


def command():
    c = Command(__file__, __doc__, tools=("numpy", "pillow"), heavy=True)
    c.input("--index", help="index.json", content=contents)
    c.model(resolved.GEOMETRY)
    c.param("--split", required=True, choices=["calib", "select", "val"])
    c.output("--images", help=".npy of uint8 [N, size, size, 3] to write")
    c.setting("--workers", type=int, default=0, help="processes (0: one a core)")
    return c


if __name__ == "__main__":
    command().run(produce)
