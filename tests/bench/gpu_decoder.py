"""How fast JPEGs become training images by a GPU's decoder, and by Pillow in processes: images a second.

    python tests/bench/gpu_decoder.py [--images 2000] [--batch 256] [--seconds 4] [--json FILE]     (on a GPU host)

The GPU's decoder is nvJPEG, by torchvision.io.decode_jpeg. Its images are cropped, resized with antialiasing and
mirrored on the GPU, by the boxes that the workflow draws. `pixels` says how far both ways are apart.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import loading
import torch
import torchvision

from core.files import write_json
from data import augment, preprocess


def boxes(images, draws):
    """Return each image's crop box and whether it is mirrored, as augment.Crop draws them."""
    found = []
    for draw in draws:
        rng = random.Random(f"{images.seed}/{draw.epoch}/{draw.position}")
        data = images.reader.read(draw.position)
        found.append((data, rng))
    return found


def on_gpu(images, draws, size):
    """Return uint8 [N, 3, size, size] on the GPU."""
    read = boxes(images, draws)
    raw = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data, _ in read]
    decoded = torchvision.io.decode_jpeg(raw, mode=torchvision.io.ImageReadMode.RGB, device="cuda")
    made = torch.empty((len(read), 3, size, size), dtype=torch.uint8, device="cuda")
    for number, (image, (_, rng)) in enumerate(zip(decoded, read)):
        height, width = image.shape[1:]
        box = augment.random_box(rng, width, height, *(loading.RECIPE[name] for name in ("crop_scale", "crop_ratio")))
        left, top, right, bottom = (round(edge) for edge in box)
        part = image[None, :, top : max(bottom, top + 1), left : max(right, left + 1)].float()
        scaled = torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True)[0]
        made[number] = (scaled.flip(-1) if rng.random() < loading.RECIPE["flip"] else scaled).round_().clamp_(0, 255)
    return made


def decoded(images, draws):
    """Return the decoded images alone, on the GPU."""
    raw = [torch.frombuffer(bytearray(images.reader.read(draw.position)), dtype=torch.uint8) for draw in draws]
    return torchvision.io.decode_jpeg(raw, mode=torchvision.io.ImageReadMode.RGB, device="cuda")


def speed(function, batches, seconds):
    """Return images a second, and this process's milliseconds of processor time an image."""
    function(next(batches))
    torch.cuda.synchronize()
    count, begin, own = 0, time.monotonic(), time.process_time()
    while time.monotonic() - begin < seconds:
        draws = next(batches)
        function(draws)
        count += len(draws)
    torch.cuda.synchronize()
    return round(count / (time.monotonic() - begin)), round(1000 * (time.process_time() - own) / count, 3)


def pixels(images, draws, size):
    """Return the mean absolute difference of both ways' pixels, in levels."""
    ours = torch.stack([torch.from_numpy(images[draw][0]) for draw in draws]).permute(0, 3, 1, 2)
    return round((on_gpu(images, draws, size).cpu().float() - ours.float()).abs().mean().item(), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("--images", 2000), ("--batch", 256), ("--size", 224)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--json")
    args = parser.parse_args()
    args.rank, args.processes = 0, 1
    found = {"cores": len(os.sched_getaffinity(0)), "torchvision": torchvision.__version__}
    with tempfile.TemporaryDirectory() as name:
        listing = loading.made(Path(name), args.images, False)
        images = loading.images_of(listing, args, False)
        batches = loading.draws(images, args)
        one = next(batches)
        begin = time.process_time()
        for draw in one:
            preprocess.opened(images.reader.read(draw.position), "x")
        found["pillow decode, ms of a core"] = round(1000 * (time.process_time() - begin) / len(one), 3)
        begin = time.process_time()
        for draw in one:
            images[draw]
        found["pillow decode, crop and resize, ms of a core"] = round(
            1000 * (time.process_time() - begin) / len(one), 3
        )
        if torch.cuda.is_available():
            found["nvJPEG decode, images/s and ms of a core"] = speed(
                lambda d: decoded(images, d), batches, args.seconds
            )
            whole = speed(lambda draws: on_gpu(images, draws, args.size), batches, args.seconds)
            found["nvJPEG decode, crop and resize, images/s and ms of a core"] = whole
            found["mean difference of pixels, levels"] = pixels(images, one[:64], args.size)
    print(found)
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
