"""Decode and preprocess the images of a split once, in parallel, into one memory-mapped file of uint8."""

from cli import Command


def produce(args):
    from data import cache, index

    listing = index.read(args.index)
    cache.write(args.images, index.files(listing, args.index, args.split), args.geometry, args.workers)


def command():
    c = Command(__file__, __doc__, tools=("numpy", "pillow"), heavy=True)
    c.input("--index", help="index.json")
    c.recipe("--geometry", help="JSON of a model's {size, crop, interpolation}")
    c.param("--split", required=True, choices=["calib", "select", "val"])
    c.output("--images", help=".npy of uint8 [N, size, size, 3] to write")
    c.setting("--workers", type=int, default=0, help="processes (0: one a core)")
    return c


if __name__ == "__main__":
    command().run(produce)
