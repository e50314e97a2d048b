"""JPEGs of training images decoded by a GPU (nvJPEG, by torchvision), where processors alone cannot keep up with it.

The processors keep every other image as their share. The crops are those of data/augment.py; two matrix products with
the coefficients of Pillow's filter crop, resize and mirror the images of a batch. Pixels differ from Pillow's by what
rounding and the decoders make.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.util
import io
from collections.abc import Generator, Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from core.files import UserError
from data import augment, preprocess

AHEAD = 2  # batches that are decoded while an earlier one trains
LARGEST = 1 << 28  # bytes of images that are resized at once
DECODED = {"JPEG": ("RGB", "L")}  # formats and modes that a GPU decodes; processes decode the others
SHARES = 2  # one in so many images is the GPU's


class Item(NamedTuple):
    """A training image whose pixels are still to be made."""

    data: np.ndarray  # uint8 [bytes] of a JPEG, or what became of it: [size, size, 3]
    box: tuple[float, ...]  # left, top, right, bottom, width and height, in pixels, of a JPEG
    mirrored: bool
    label: np.ndarray  # int64 []
    size: int  # of the network's image


class Batch(NamedTuple):
    """Items in one tensor, which travels between processes at once."""

    data: torch.Tensor  # uint8, all items' data one after the other
    shapes: list[tuple[int, ...]]
    boxes: torch.Tensor  # float32 [N, 6]
    mirrored: torch.Tensor  # bool [N]
    labels: torch.Tensor  # int64 [N]
    size: int

    def items(self) -> list[torch.Tensor]:
        """Return each item's data, a view."""
        sizes = [int(np.prod(shape)) for shape in self.shapes]
        return [part.view(shape) for part, shape in zip(self.data.split(sizes), self.shapes)]


class Files(torch.utils.data.Dataset):
    """Draw -> Item, of a dataset of training images."""

    def __init__(self, images: augment.TrainImages) -> None:
        self.images = images

    def __getitem__(self, draw: augment.Draw) -> Item | tuple:
        label, nothing = self.images.labels[draw.position], (0.0,) * 6
        if draw.epoch == augment.CLEAN:
            return self.images[draw]
        data = self.images.reader.read(draw.position)
        sides = None if draw.position % SHARES else _sides(data)
        if sides is None:
            return Item(self.images[draw][0], nothing, False, label, draw.size)
        crop = self.images.crop(draw)
        crop.enough(*sides)
        content = np.frombuffer(data, np.uint8)
        return Item(content, (*crop.box, *sides), crop.mirrored(), label, draw.size)


def _sides(data):
    """Return an image's width and height, or None if the GPU cannot decode it. Decoding reports a damaged file."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size if image.mode in DECODED.get(image.format or "", ()) else None
    except preprocess.DAMAGE:
        return None


def gathered(items: list[Item]) -> Batch:
    """Return items as a batch."""
    data, boxes, mirrored, labels, sizes = zip(*items)
    flat = torch.empty(sum(part.size for part in data), dtype=torch.uint8)
    np.concatenate([part.reshape(-1) for part in data], out=flat.numpy())
    shapes, kinds = [part.shape for part in data], torch.tensor([int(one) for one in labels])
    return Batch(flat, shapes, torch.tensor(boxes, dtype=torch.float32), torch.tensor(mirrored), kinds, sizes[0])


def check(device: torch.device) -> None:
    """Raise UserError if nothing on the device decodes images."""
    if device.type != "cuda":
        raise UserError(f"decoder: gpu of a training: it is on {device.type}: leave it out, or train on a GPU")
    if not importlib.util.find_spec("torchvision"):
        raise UserError("decoder: gpu of a training: it needs torchvision: install it, or leave it out")


def batches(
    loader: Iterable[Batch], interpolation: str, device: torch.device
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Yield (uint8 [N, size, size, 3] on the device, labels int64 [N]); a thread decodes batches ahead."""
    stream = torch.cuda.Stream(device)

    def work(batch):
        with torch.cuda.device(device), torch.cuda.stream(stream):
            return made(batch, interpolation, device), stream.record_event()

    waiting: list = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for batch in loader:
            ahead = isinstance(batch, Batch)
            waiting.append((pool.submit(work, batch), batch.labels) if ahead else batch)
            while len(waiting) > (AHEAD if ahead else 0):
                yield ready(*waiting.pop(0))
        for pair in waiting:
            yield ready(*pair)


def ready(found: concurrent.futures.Future | torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch for use on the current stream."""
    if isinstance(found, torch.Tensor):
        return found, labels
    pixels, event = found.result()
    current = torch.cuda.current_stream(pixels.device)
    current.wait_event(event)
    pixels.record_stream(current)
    return pixels, labels


def made(batch: Batch, interpolation: str, device: torch.device) -> torch.Tensor:
    """Return uint8 [N, size, size, 3] on the device: decoded, cropped, resized and mirrored."""
    items = batch.items()
    places = [place for place, item in enumerate(items) if item.ndim == 1]
    pixels = torch.empty((len(items), batch.size, batch.size, 3), dtype=torch.uint8)
    for place, item in enumerate(items):
        if item.ndim == 3:
            pixels[place] = item
    pixels = pixels.to(device, non_blocking=True)
    if places:
        images = decoded([items[place] for place in places], device)
        sides = (batch.boxes[places, 4:].max(0).values + 1).tolist()
        count = max(1, int(LARGEST // (3 * sides[0] * sides[1])))
        boxes, mirrored = batch.boxes[places].to(device), batch.mirrored[places].to(device)
        for first in range(0, len(images), count):
            part = slice(first, first + count)
            done = resized(images[part], boxes[part], mirrored[part], batch.size, interpolation)
            pixels[places[part]] = done.permute(0, 2, 3, 1)
    return pixels


def resized(
    images: list[torch.Tensor], boxes: torch.Tensor, mirrored: torch.Tensor, size: int, interpolation: str
) -> torch.Tensor:
    """Return uint8 [N, 3, size, size] of images uint8 [3, height, width]."""
    left, top, right, bottom, widths, heights = boxes.unbind(1)
    shape = (len(images), 3, max(image.shape[1] for image in images), max(image.shape[2] for image in images))
    padded = images[0].new_zeros(shape)
    for place, image in zip(padded, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    weigh = functools.partial(coefficients, size=size, interpolation=interpolation)
    across, down = weigh(left, right, widths, shape[3]), weigh(top, bottom, heights, shape[2])
    across = torch.where(mirrored[:, None, None], across.flip(1), across)
    kind = torch.float16 if padded.is_cuda else torch.float32
    pixels = down.to(kind)[:, None] @ (padded.to(kind) @ across.to(kind).transpose(1, 2)[:, None])
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def decoded(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return uint8 [3, height, width] of each JPEG on the device; raise UserError for what nvJPEG cannot decode."""
    from torchvision import io as images

    try:
        return images.decode_jpeg(files, mode=images.ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        raise UserError(f"decoder: gpu of a training: {str(error).splitlines()[0]}: leave it out") from None


def coefficients(
    low: torch.Tensor, high: torch.Tensor, lengths: torch.Tensor, longest: int, size: int, interpolation: str
) -> torch.Tensor:
    """Return float32 [N, size, longest]: the share of each source pixel along a side, as Pillow resizes.

    low, high, lengths [N]: the box along this side, and the side itself. The filter is stretched by what an image
    shrinks, so that it is antialiased.
    """
    scale = (high - low) / size
    centers = low[:, None] + (torch.arange(size, device=low.device) + 0.5) * scale[:, None]
    places = torch.arange(longest, device=low.device)
    x = ((places + 0.5 - centers[:, :, None]) / scale.clamp(min=1)[:, None, None]).abs()
    found = FILTERS[interpolation](x) * (places < lengths[:, None, None])
    return found / found.sum(2, keepdim=True)


def _bilinear(x):
    return (1 - x).clamp(min=0)


def _bicubic(x):
    """Keys's kernel with a = -0.5."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


FILTERS = {"bicubic": _bicubic, "bilinear": _bilinear}
