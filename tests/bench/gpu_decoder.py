"""How fast JPEGs become training images by a GPU's decoder, and by Pillow in processes: images a second.

    python tests/bench/gpu_decoder.py [--images 2000] [--batch 256] [--seconds 4] [--json FILE]     (on a GPU host)

The GPU's decoder is nvJPEG, by torchvision.io.decode_jpeg. Its images are cropped, resized and mirrored on the GPU, by
the boxes that the workflow draws and the filter of Pillow; without a GPU, the filter alone is compared.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import loading
import numpy as np
import torch
import torchvision

from core.files import write_json
from data import augment, preprocess


def on_gpu(images, draws, size, decode=None):
    """Return uint8 [N, 3, size, size] on the GPU: decoded, cropped, resized and mirrored by three products a batch."""
    decoded_images = (decode or decoded)(images, draws)
    boxes, flips = [], []
    for draw, image in zip(draws, decoded_images):
        rng = random.Random(f"{images.seed}/{draw.epoch}/{draw.position}")
        height, width = image.shape[1:]
        ranges = [loading.RECIPE[name] for name in ("crop_scale", "crop_ratio")]
        boxes.append([*augment.random_box(rng, width, height, *ranges), width, height])
        flips.append(rng.random() < loading.RECIPE["flip"])
    device = decoded_images[0].device
    left, top, right, bottom, widths, heights = torch.tensor(boxes, device=device).unbind(1)
    padded = decoded_images[0].new_zeros((len(draws), 3, int(heights.max()), int(widths.max())))
    for place, image in zip(padded, decoded_images):
        place[:, : image.shape[1], : image.shape[2]] = image
    across = weights(left, right, widths, size, padded.shape[3])
    mirrored = torch.tensor(flips, device=device)[:, None, None]
    across = torch.where(mirrored, across.flip(1), across)
    down = weights(top, bottom, heights, size, padded.shape[2])
    kind = torch.float16 if device.type == "cuda" else torch.float32
    rows = padded.to(kind) @ across.to(kind).transpose(1, 2)[:, None]
    return (down.to(kind)[:, None] @ rows).round_().clamp_(0, 255).to(torch.uint8)


def weights(low, high, length, size, most):
    """Return float32 [N, size, most]: Pillow's bicubic coefficients of boxes (low, high [N]) in images of a length."""
    scale = (high - low) / size
    stretch = scale.clamp(min=1)[:, None, None]
    steps = torch.arange(size, device=low.device) + 0.5
    centers = (low[:, None] + steps * scale[:, None])[:, :, None]
    places = torch.arange(most, device=low.device)
    x = ((places + 0.5 - centers) / stretch).abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    found = torch.where(x < 1, near, torch.where(x < 2, far, 0.0)) * (places < length[:, None, None])
    return found / found.sum(2, keepdim=True)


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


def by_pillow(images, draws):
    opened = (preprocess.opened(images.reader.read(draw.position), "x").convert("RGB") for draw in draws)
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in opened]


def pixels(images, draws, size, decode):
    """Return the mean absolute difference of both ways' pixels, in levels."""
    ours = torch.stack([torch.from_numpy(np.array(images[draw][0])) for draw in draws]).permute(0, 3, 1, 2)
    theirs = on_gpu(images, draws, size, decode).cpu()
    return round((theirs.float() - ours.float()).abs().mean().item(), 3)


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
            found["mean difference of pixels, levels"] = pixels(images, one[:64], args.size, decoded)
        found["the same, decoded by Pillow"] = pixels(images, one[:32], args.size, by_pillow)
    print(found)
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
