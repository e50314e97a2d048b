"""The one preprocessing: an image file becomes uint8 RGB, and uint8 becomes the network's float32 (numpy and Pillow).

Equal to timm's evaluation transform of the same size, crop and interpolation to within one uint8 level.
"""

import io
import math
import re
import struct

import numpy as np
from PIL import Image

from core.files import UserError
from data import image_formats, source

FILTERS = {"bicubic": Image.BICUBIC, "bilinear": Image.BILINEAR}
BUFFER = re.compile(r" <_io.BytesIO[^>]*>")  # Pillow's name of bytes in memory
LARGE = 1 << 24  # pixels of a resized image above which only what is kept of it is made
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, Image.DecompressionBombError)


def load(image):
    """Return an image (a path, or a Member of an archive) as a Pillow image, L or RGB; raise UserError naming it."""
    return opened(content(image), image)


def opened(data, name):
    """Return the Pillow image in bytes, L or RGB; raise UserError naming it if they are none.

    Gray stays one channel, for speed: resizing it and repeating it gives what resizing three equal channels gives.
    As timm does, the content says what format it is, and an EXIF orientation is not applied.
    """
    return _of(data, name, lambda image: image.copy())


def check(data, name):
    """Raise UserError naming an image where its bytes are of none of the formats; nothing is decoded."""
    _of(data, name, lambda opened: None, decode=False)


def pixels(data, name, geometry):
    """Return the bytes of an image file as `prepare` does; raise UserError naming it if they are none."""
    return _of(data, name, lambda opened: prepare(opened, geometry))


def content(image):
    """Return the bytes of an image; raise UserError where it is not there or cannot be read."""
    try:
        return source.read(image)
    except FileNotFoundError:
        raise UserError(f"image {image} is in the index but not there: restore it, or delete the index") from None
    except OSError as error:
        raise UserError(f"image {image} cannot be read ({error.strerror or error}): replace or remove it") from None


def _of(data, name, function, decode=True):
    """Return function(the Pillow image in bytes, of mode L or RGB); raise UserError naming it where they hold none."""
    try:
        with Image.open(io.BytesIO(data), formats=image_formats.formats()) as image:
            if not decode:
                return function(image)
            image.load()
            return function(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except DAMAGE as error:
        reason = BUFFER.sub("", " ".join(str(error).split())) or type(error).__name__
        raise UserError(f"image {name} cannot be read ({reason}): replace or remove it") from None


def filter_of(interpolation):
    """Return Pillow's filter for a row's interpolation; raise UserError for an unknown one."""
    if interpolation not in FILTERS:
        raise UserError(f"interpolation {interpolation!r} is unknown: {' or '.join(sorted(FILTERS))}")
    return FILTERS[interpolation]


def prepare(image, geometry):
    """Return a Pillow image (L or RGB) as the network sees it: uint8 [size, size, 3].

    geometry: {size, crop, crop_mode, interpolation} of a model's file. The shorter side becomes floor(size / crop)
    pixels (`center`), or both do (`squash`), antialiased, and the middle size x size of that is kept, with black around
    it where that is more (crop above 1). Of an image so long that the whole would be huge, the middle alone is made,
    which rounding may put a level apart.
    """
    size, (width, height) = geometry["size"], _resized(image, geometry)
    left, top = _before(width, size), _before(height, size)
    resample = filter_of(geometry["interpolation"])
    if width * height > LARGE and min(left, top) >= 0:
        across, down = image.width / width, image.height / height
        middle = (left * across, top * down, (left + size) * across, (top + size) * down)
        return rgb(image.resize((size, size), resample, box=middle))
    return rgb(image.resize((width, height), resample).crop((left, top, left + size, top + size)))


def _resized(image, geometry):
    """Return the width and the height that an image is resized to before the middle is kept."""
    short = math.floor(geometry["size"] / geometry["crop"])
    if geometry["crop_mode"] == "squash":
        return short, short
    if image.width > image.height:
        return int(short * image.width / image.height), short
    return short, int(short * image.height / image.width)


def _before(length, size):
    """Return where the middle `size` of a length begins: below 0 where the length is shorter, as torchvision pads."""
    return round((length - size) / 2) if length >= size else -((size - length) // 2)


def rgb(image):
    """Return a Pillow image (L or RGB) as uint8 [height, width, 3]."""
    pixels = np.asarray(image)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def normalize(batch, mean, std):
    """Return uint8 [N, H, W, 3] as float32 [N, 3, H, W], contiguous: (value / 255 - mean) / std per channel."""
    scaled = np.ascontiguousarray(np.transpose(batch, (0, 3, 1, 2)), dtype=np.float32)
    scaled /= np.float32(255)
    scaled -= np.asarray(mean, dtype=np.float32).reshape(1, -1, 1, 1)
    scaled /= np.asarray(std, dtype=np.float32).reshape(1, -1, 1, 1)
    return scaled
