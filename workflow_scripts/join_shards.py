"""Join the shards of a split, which jobs of a cluster decoded, to the file that one job would have written."""

from core.command import Command, Job
from data import cache, index


def run(args: Job) -> None:
    cache.join(args.images, args.shards, index.count(index.read(args.index), args.split))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("numpy",))
    c.input("--shards", nargs="+", required=True, help="files of decode_split.py, in their order")
    c.input("--index", content=lambda args: index.count(index.read(args.index), args.split))
    c.param("--split", required=True, choices=["calib", "select", "val"])
    return c.output("--images", help=".npy of uint8 [N, size, size, 3]")


if __name__ == "__main__":
    command().run(run)
