"""Preprocessing, shared by all runtimes: image file to uint8 RGB, uint8 to the network's float32 (numpy and Pillow).

Equal to timm's evaluation transform of the same size, crop and interpolation to within one uint8 level.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import numpy as np
from PIL import Image

from core.files import UserError
from data import image_formats, source

FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
BUFFER = re.compile(r" <_io.BytesIO[^>]*>")  # Pillow's name for bytes in memory
LARGE = 1 << 24  # pixels of a resized image above which only its crop is computed
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, Image.DecompressionBombError)


def load(image: source.Source) -> Image.Image:
    """Return an image file as a Pillow image, L or RGB; raise UserError naming it if it cannot be read."""
    return opened(content(image), image)


def opened(data: bytes, name: source.Source, enough: Callable | None = None) -> Image.Image:
    """Return the Pillow image in `data`, L or RGB; raise UserError naming it if there is none.

    enough: function of an image's (width, height), which returns those that suffice; a JPEG at least twice as large is
    decoded at a half, a quarter or an eighth of its size, in a fraction of the time.

    Gray stays one channel, for speed: resizing and then repeating it equals resizing three equal channels.
    As in timm, the content decides the format, and an EXIF orientation is not applied.
    """
    return _of(data, name, lambda image: image.copy(), enough=enough)


def mode(data: bytes, name: source.Source) -> str:
    """Return Pillow's mode of an image, which is not decoded; raise UserError naming it if it is in no format."""
    return _of(data, name, lambda opened: opened.mode, decode=False)


def pixels(data: bytes, name: source.Source, geometry: dict) -> np.ndarray:
    """Return the image in `data` as `prepare` does; raise UserError naming it if there is none."""
    return _of(data, name, lambda opened: prepare(opened, geometry))


def content(image: source.Source) -> bytes:
    """Return the bytes of an image; raise UserError if it is missing or cannot be read."""
    try:
        return source.read(image)
    except FileNotFoundError:
        raise UserError(f"image {image} is in the index but does not exist: restore it, or delete the index") from None
    except OSError as error:
        raise UserError(f"image {image} cannot be read ({error.strerror or error}): replace or remove it") from None


def _of(data, name, function, decode=True, enough=None):
    """Return function(the Pillow image in `data`, L or RGB); raise UserError naming it if there is none."""
    try:
        with Image.open(io.BytesIO(data), formats=image_formats.formats()) as image:
            if not decode:
                return function(image)
            if enough:
                image.draft(None, enough(*image.size))
            image.load()
            return function(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except DAMAGE as error:
        reason = BUFFER.sub("", " ".join(str(error).split())) or type(error).__name__
        raise UserError(f"image {name} cannot be read ({reason}): replace or remove it") from None


def filter_of(interpolation: str) -> int:
    """Return Pillow's filter for a row's interpolation; raise UserError if it is unknown."""
    if interpolation not in FILTERS:
        raise UserError(f"interpolation {interpolation!r} is unknown: {' or '.join(sorted(FILTERS))}")
    return FILTERS[interpolation]


def prepare(image: Image.Image, geometry: dict) -> np.ndarray:
    """Return an image (L or RGB) resized and cropped for the network: uint8 [size, size, 3].

    geometry: {size, crop, crop_mode, interpolation} of a model's file. The shorter side becomes floor(size / crop)
    pixels (`center`), or both do (`squash`), antialiased; then the middle size x size is cropped, padded with black if
    it is larger (crop above 1). If the resized image would be huge, the middle alone is computed, which rounding may
    change by a level.
    """
    size, (width, height) = geometry["size"], _resized(image, geometry)
    left, top = _before(width, size), _before(height, size)
    resample = filter_of(geometry["interpolation"])
    if width * height > LARGE and min(left, top) >= 0:
        across, down = image.width / width, image.height / height
        middle = (left * across, top * down, (left + size) * across, (top + size) * down)
        return rgb(resize(image, (size, size), resample, middle))
    return rgb(resize(image, (width, height), resample).crop((left, top, left + size, top + size)))


def resize(image: Image.Image, size: tuple[int, int], resample: int, box: Sequence[float] = ()) -> Image.Image:
    """Return the box (left, top, right, bottom; else all) of an image in another size, alike in all Pillow's versions.

    Where many more rows than columns are lost, Pillow 13 begins with the rows and older ones with the columns; rounding
    in between makes up to 19 levels. Two calls, one for each direction, keep to the order of Pillow 13.
    """
    left, top, right, bottom = box or (0, 0, *image.size)
    if image.height - size[1] > 2 * max(image.width - size[0], 0):
        image = image.resize((image.width, size[1]), resample, box=(0, top, image.width, bottom))
        top, bottom = 0, size[1]
    return image.resize(size, resample, box=(left, top, right, bottom))


def _resized(image, geometry):
    """Return the width and height of an image after resizing, before the crop."""
    short = math.floor(geometry["size"] / geometry["crop"])
    if geometry["crop_mode"] == "squash":
        return short, short
    if image.width > image.height:
        return int(short * image.width / image.height), short
    return short, int(short * image.height / image.width)


def _before(length, size):
    """Return where the middle `size` of a length begins; negative if the length is shorter, as torchvision pads."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)


def rgb(image: Image.Image) -> np.ndarray:
    """Return an image (L or RGB) as uint8 [height, width, 3]."""
    pixels = np.asarray(image)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def normalize(batch: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Return uint8 [N, H, W, 3] as float32 [N, 3, H, W], contiguous: (value / 255 - mean) / std per channel."""
    scaled = np.ascontiguousarray(np.transpose(batch, (0, 3, 1, 2)), dtype=np.float32)
    scaled /= np.float32(255)
    scaled -= np.asarray(mean, dtype=np.float32).reshape(1, -1, 1, 1)
    scaled /= np.asarray(std, dtype=np.float32).reshape(1, -1, 1, 1)
    return scaled


def for_session(session: Any, pixels: np.ndarray, model: Mapping) -> np.ndarray:
    """Return uint8 [N, H, W, 3] as a session takes images: normalized as the model's row says, or as they are."""
    return pixels if session.dtype == np.uint8 else normalize(pixels, model["mean"], model["std"])
