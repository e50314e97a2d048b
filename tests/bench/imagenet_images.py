"""Write an ImageNet of generated JPEGs as class folders: sizes, bytes and texture are like those of the real images.

    python tests/bench/imagenet_images.py FOLDER --count 10000 [--times 5] [--train 1281167] [--classes 1000]

Each image is a window of a large picture of 1/f noise, as natural images have it, with sharper noise over it; the same
number gives the same bytes. `--times` writes each so often, every time with another comment, so that no two files are
equal. `--train` adds training images. An index reads only those that calib and select take, which are images; of the
others it looks at the status alone, so they have a size and no content on the disk.
"""

import argparse
import io
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

from data import processes, splits

SIZES = [((500, 375), 0.48), ((375, 500), 0.14), ((500, 333), 0.12), ((333, 500), 0.04)]  # and others, of 120 to 500
SIDE = 1536  # of the large pictures, in pixels
PICTURES = 4
QUALITIES = (90, 92, 94, 95, 96)  # of JPEG: they give 111 kB on average
SPLITS, SEED = {"calib": 1024, "select": 5000}, 0  # of the row that imagenet_scale.py indexes
_made = []


def noise(seed):
    """Return uint8 [SIDE, SIDE, 3] whose spectrum falls with the frequency, the same for a seed."""
    rng = np.random.RandomState(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None, :])
    frequency[0, 0] = 1
    planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(SIDE, SIDE))) / frequency**1.1, (SIDE, SIDE)) for _ in "abc"]
    gray = planes[0] / planes[0].std()
    colors = np.stack([gray + 0.35 * plane / plane.std() for plane in planes], axis=2)
    return np.clip(118 + 48 * colors + rng.normal(0, 5, colors.shape), 0, 255).astype(np.uint8)


def size_of(rng):
    """Return (width, height) of an image."""
    mark = rng.random()
    for size, share in SIZES:
        mark -= share
        if mark < 0:
            return size
    return rng.randint(120, 500), rng.randint(120, 500)


def jpeg(number):
    """Return the bytes of image `number`."""
    if not _made:
        _made.extend(noise(seed) for seed in range(PICTURES))
    rng = random.Random(number)
    width, height = size_of(rng)
    left, top = rng.randrange(SIDE - width), rng.randrange(SIDE - height)
    window = _made[number % PICTURES][top : top + height, left : left + width]
    image = Image.fromarray(window if rng.random() < 0.5 else window[:, ::-1].copy())
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=rng.choice(QUALITIES))
    return stream.getvalue()


def commented(data, text):
    """Return a JPEG's bytes with a comment, which no decoder looks at."""
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text.encode() + data[2:]


def write(task):
    """Write one image under each of its names; return the bytes of a file."""
    number, paths = task
    data = jpeg(number)
    for path in paths:
        Path(path).write_bytes(commented(data, path.name))
    return len(data)


def write_val(folder, count, times, classes):
    """Write count x times images of val; return the mean of their bytes."""
    names = [f"val/n{n % classes:08d}/ILSVRC2012_val_{n + 1:08d}.JPEG" for n in range(count * times)]
    tasks = [(number, [folder / name for name in names[number::count]]) for number in range(count)]
    return np.mean(list(processes.imap(write, tasks, "write val", "image")))


def write_train(folder, count, classes):
    """Write the training images: whole ones where calib and select take them, else files of which nothing is read."""
    names = [f"train/n{n % classes:08d}/n{n % classes:08d}_{n}.JPEG" for n in range(count)]
    labels, rng = [number % classes for number in range(count)], random.Random(count)
    select = splits.balanced(range(count), labels, names, SPLITS["select"], f"{SEED}/select")
    rest = sorted(set(range(count)) - set(select))
    read = {*select, *splits.balanced(rest, labels, names, SPLITS["calib"], f"{SEED}/calib")}
    for name in names:
        with open(folder / name, "wb") as stream:
            stream.truncate(rng.randint(20000, 200000))
    tasks = [(number, [folder / names[number]]) for number in sorted(read)]
    return sum(1 for _ in processes.imap(write, tasks, "write calib and select", "image"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10000, help="pictures of val")
    parser.add_argument("--times", type=int, default=1, help="files of each")
    parser.add_argument("--train", type=int, default=0, help="training images")
    parser.add_argument("--classes", type=int, default=1000)
    args = parser.parse_args()
    for half in ("train", "val") if args.train else ("val",):
        for label in range(args.classes):
            (args.folder / half / f"n{label:08d}").mkdir(parents=True)
    if args.train:
        print(f"{args.train} training images, {write_train(args.folder, args.train, args.classes)} of them whole")
    mean = write_val(args.folder, args.count, args.times, args.classes)
    print(f"{args.count * args.times} images of val, mean {mean / 1000:.1f} kB")


if __name__ == "__main__":
    main()
