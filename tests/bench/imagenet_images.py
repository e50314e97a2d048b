"""Write JPEGs whose sizes, bytes and texture are like those of ImageNet's validation images, as an ImageFolder tree.

    python tests/bench/imagenet_images.py FOLDER --count 10000 [--times 5] [--classes 1000]

Each image is a window of a large picture of 1/f noise, as natural images have it, with sharper noise over it; the same
number gives the same bytes. `--times` links each file that often under other names, for a folder of many images.
"""

import argparse
import io
import os
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow_scripts"))

from data import processes

SIZES = [((500, 375), 0.48), ((375, 500), 0.14), ((500, 333), 0.12), ((333, 500), 0.04)]  # and others, of 120 to 500
SIDE = 1536  # of the large pictures, in pixels
PICTURES = 4
QUALITIES = (90, 92, 94, 95, 96)  # of JPEG: they give 111 kB on average
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


def write(task):
    """Write one image and its further names."""
    number, paths = task
    with open(paths[0], "wb") as stream:
        stream.write(jpeg(number))
    for path in paths[1:]:
        os.link(paths[0], path)
    return os.path.getsize(paths[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10000, help="images")
    parser.add_argument("--times", type=int, default=1, help="names of each")
    parser.add_argument("--classes", type=int, default=1000)
    args = parser.parse_args()
    total = args.count * args.times
    for label in range(args.classes):
        (args.folder / f"val/n{label:08d}").mkdir(parents=True)
    names = [f"val/n{number % args.classes:08d}/ILSVRC2012_val_{number:08d}.JPEG" for number in range(total)]
    tasks = [(n, [args.folder / name for name in names[n :: args.count]]) for n in range(args.count)]
    sizes = list(processes.imap(write, tasks, "write JPEGs", "image"))
    print(f"{total} images, mean {np.mean(sizes) / 1000:.1f} kB")


if __name__ == "__main__":
    main()
