"""JPEGs of training images decoded by a GPU (nvJPEG, by torchvision), where processors alone cannot keep up with it.

The crops are those of data/augment.py; two matrix products with the coefficients of Pillow's filter crop, resize and
mirror the images of a batch. Pixels differ from Pillow's by what rounding and the decoders make.

A thread receives and decodes batches ahead, on a CUDA stream of its own. Each of its calls of torch can make the thread
that launches training steps wait for Python's lock: a batch takes as few, however many images it has.
"""

from __future__ import annotations

import collections
import concurrent.futures
import importlib.util
import io
from collections.abc import Generator, Iterable
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch._utils import _flatten_dense_tensors

from core.files import UserError
from data import augment, preprocess

AHEAD = 2  # batches that are decoded while an earlier one trains
LARGEST = 1 << 28  # bytes of images that are resized at once, in 7 times as much of a GPU's memory
DECODED = {"JPEG": ("RGB", "L")}  # formats and modes that a GPU decodes; processes decode the others
SHARE = (1, 1)  # so many of so many JPEGs are the GPU's: docs/measurements/several-gpus.md


class Item(NamedTuple):
    """A training image whose pixels are still to be made."""

    data: np.ndarray  # uint8 [bytes] of a JPEG, or what became of it: [size, size, 3]
    box: tuple[float, ...]  # left, top, right, bottom, width and height, in pixels, of a JPEG
    mirrored: bool
    label: np.ndarray  # int64 []
    size: int  # of the network's image


class Batch(NamedTuple):
    """Items as few tensors, since each that another process made costs a connection to it."""

    pixels: torch.Tensor  # uint8 [M, size, size, 3], made by the processors
    files: torch.Tensor  # uint8 [bytes]: K JPEGs, one after the other
    lengths: list[int]  # of the JPEGs
    boxes: np.ndarray  # float32 [K, 6]
    mirrored: np.ndarray  # bool [K]
    places: np.ndarray  # int64 [M + K]: where each item is, among the pixels and then the JPEGs
    labels: np.ndarray  # int64 [M + K]


class Files(torch.utils.data.Dataset):
    """Draw -> Item, of a dataset of training images."""

    def __init__(self, images: augment.TrainImages) -> None:
        self.images = images

    def __getitem__(self, draw: augment.Draw) -> Item | tuple:
        label, nothing = self.images.labels[draw.position], (0.0,) * 6
        if draw.epoch == augment.CLEAN:
            return self.images[draw]
        data = self.images.reader.read(draw.position)
        sides = _sides(data) if draw.position % SHARE[1] < SHARE[0] else None
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
    made, files = ([item for item in items if item.data.ndim == sides] for sides in (3, 1))
    pixels = np.empty((len(made), items[0].size, items[0].size, 3), np.uint8)
    for place, item in zip(pixels, made):
        place[:] = item.data
    joined = np.concatenate([item.data for item in files]) if files else np.empty(0, np.uint8)
    is_file = np.array([item.data.ndim == 1 for item in items])
    return Batch(
        torch.from_numpy(pixels),
        torch.from_numpy(joined),
        [len(item.data) for item in files],
        np.array([item.box for item in files], np.float32).reshape(-1, 6),
        np.array([item.mirrored for item in files], bool),
        np.where(is_file, len(made) - 1 + is_file.cumsum(), (~is_file).cumsum() - 1),
        np.array([int(item.label) for item in items]),
    )


def check(device: torch.device) -> None:
    """Raise UserError if nothing on the device decodes images."""
    if device.type != "cuda":
        raise UserError(f"decoder: gpu of a training: it is on {device.type}: leave it out, or train on a GPU")
    if not importlib.util.find_spec("torchvision"):
        raise UserError("decoder: gpu of a training: it needs torchvision: install it, or leave it out")


def batches(
    loader: Iterable[Batch | tuple], interpolation: str, device: torch.device
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Yield (uint8 [N, size, size, 3], labels int64 [N]), on the device but for what the loader has made itself."""
    loaded, stream = iter(loader), torch.cuda.Stream(device) if device.type == "cuda" else None

    def work():
        batch = next(loaded, None)
        if not isinstance(batch, Batch):
            return batch, None
        with torch.cuda.stream(stream):
            labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)
            return (made(batch, interpolation, device), labels), stream and stream.record_event()

    pool = concurrent.futures.ThreadPoolExecutor(1)
    waiting = collections.deque(pool.submit(work) for _ in range(AHEAD))
    try:
        while (found := waiting.popleft().result())[0] is not None:
            waiting.append(pool.submit(work))
            yield ready(*found)
    finally:
        pool.shutdown(cancel_futures=True)


def ready(pair: tuple[torch.Tensor, torch.Tensor], event: torch.cuda.Event | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch for use on the current stream, which waits for the event."""
    if event:
        current = torch.cuda.current_stream(pair[0].device)
        current.wait_event(event)
        for tensor in pair:
            tensor.record_stream(current)
    return pair


def made(batch: Batch, interpolation: str, device: torch.device) -> torch.Tensor:
    """Return uint8 [N, size, size, 3] on the device: decoded, cropped, resized and mirrored."""
    parts, size = [batch.pixels.to(device)] if len(batch.pixels) else [], batch.pixels.shape[1]
    if batch.lengths:
        images = decoded(list(batch.files.split(batch.lengths)), device)
        width, height = batch.boxes[:, 4:].max(0)
        count = max(1, int(LARGEST // (3 * width * height)))
        for first in range(0, len(images), count):
            part = slice(first, first + count)
            parts.append(resized(images[part], batch.boxes[part], batch.mirrored[part], size, interpolation))
    pixels = torch.cat(parts) if len(parts) > 1 else parts[0]
    return pixels[torch.from_numpy(batch.places).to(device)] if len(batch.pixels) and batch.lengths else pixels


def resized(
    images: list[torch.Tensor], boxes: np.ndarray, mirrored: np.ndarray, size: int, interpolation: str
) -> torch.Tensor:
    """Return uint8 [N, size, size, 3] of images uint8 [3, height, width], whose sides are in boxes float32 [N, 6].

    mirrored: bool [N].
    """
    sides, ends = boxes[:, [5, 4]], np.stack([boxes[:, [1, 0]], boxes[:, [3, 2]]])
    ends[:, mirrored, 1] = ends[::-1, mirrored, 1]
    padded = _padded(images, sides.astype(np.int32))
    low, high, lengths = torch.from_numpy(np.stack([*ends, sides])).to(padded.device)
    weights = coefficients(low, high, lengths, max(padded.shape[2:]), size, interpolation)
    weights = weights.to(torch.float16 if padded.is_cuda else torch.float32)
    down, across = weights[:, 0, :, : padded.shape[2]], weights[:, 1, :, : padded.shape[3]]
    pixels = down[:, None] @ (padded.to(weights.dtype) @ across.transpose(1, 2)[:, None])
    return pixels.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _padded(images, sides):
    """Return images, of sides int32 [N, 2], as uint8 [N, 3, height, width] of the largest.

    What is beside an image belongs to others.
    """
    flat, sizes = _flatten_dense_tensors(images), 3 * sides.prod(1)
    table = np.column_stack([sides, sizes.cumsum() - sizes]).astype(np.int32)
    heights, widths, starts = torch.from_numpy(table).to(flat.device).view(-1, 3, 1, 1, 1).unbind(1)
    lengths = (3, *sides.max(0).tolist())
    channels, rows, columns = (torch.arange(n, dtype=torch.int32, device=flat.device) for n in lengths)
    places = channels[:, None, None] * (heights * widths) + rows[:, None] * widths + columns + starts
    return flat.index_select(0, places.clamp_(max=len(flat) - 1).view(-1)).view(places.shape)


def decoded(files: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return uint8 [3, height, width] of each JPEG on the device; raise UserError for what nvJPEG cannot decode.

    nvJPEG writes on a stream of its own, into memory that the current stream has freed: that stream finishes first.
    """
    from torchvision import io as images

    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    try:
        return images.decode_jpeg(files, mode=images.ImageReadMode.RGB, device=device)
    except RuntimeError as error:
        raise UserError(f"decoder: gpu of a training: {str(error).splitlines()[0]}: leave it out") from None


def coefficients(
    low: torch.Tensor, high: torch.Tensor, lengths: torch.Tensor, longest: int, size: int, interpolation: str
) -> torch.Tensor:
    """Return float32 [..., size, longest]: the share of each source pixel along sides, as Pillow resizes.

    low, high, lengths [...]: where a box begins and ends along a side, and the side itself; a box that ends before it
    begins is mirrored. The filter is stretched by what an image shrinks, so that it is antialiased.
    """
    scale = ((high - low) / size)[..., None]
    centers = low[..., None] + (torch.arange(size, device=low.device) + 0.5) * scale
    places = torch.arange(longest, device=low.device)
    x = ((places + 0.5 - centers[..., None]) / scale.abs().clamp(min=1)[..., None]).abs()
    found = FILTERS[interpolation](x) * (places < lengths[..., None, None])
    return found / found.sum(-1, keepdim=True)


def _bilinear(x):
    return (1 - x).clamp(min=0)


def _bicubic(x):
    """Keys's kernel with a = -0.5."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


FILTERS = {"bicubic": _bicubic, "bilinear": _bilinear}
