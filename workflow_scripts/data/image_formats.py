"""Which files are images: those that Pillow decodes from a fixed list of formats, known by name or by content.

Only these formats are ever tried, so that no file starts another program (Pillow gives EPS to Ghostscript).
"""

from __future__ import annotations

import functools
import os
import re

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff")
SUFFIXES += (".webp", ".gif", ".jfif", ".jpe", ".jp2", ".avif")  # of these a name is enough; of others the content says
OTHERS: tuple[str, ...] = (".heic", ".heif", ".svg", ".eps", ".psd", ".pdf", ".ico", ".tga", ".exr", ".hdr", ".jxl")
OTHERS += (".dcm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".npy")
HEAD = 32  # bytes of a file that say what it is
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0|II[*+]\0"
    rb"|MM\0[*+]|P[1-6]\s+[#0-9]|\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n|....ftypavi[fs]",
    re.DOTALL,
)
EMPTY, UNREADABLE, UNREAD, NO_IMAGE = "empty", "unreadable", "image of a format that is not read", "not an image"


@functools.lru_cache(maxsize=1)
def formats():
    """Return those of FORMATS that this Pillow decodes."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def named(name):
    """Return whether a file's name says that it is an image."""
    return name.lower().endswith(SUFFIXES)


def shown(head):
    """Return whether a file whose first HEAD bytes are these is an image."""
    return MAGIC.match(head) is not None


def refusal(name, size, head):
    """Return why a file is no image, or None; head: function that returns its first HEAD bytes, or raises OSError."""
    if named(name):
        return None
    if not size:
        return EMPTY
    try:
        if shown(head()):
            return None
    except OSError:
        return UNREADABLE
    return UNREAD if os.path.splitext(name.lower())[1] in OTHERS else NO_IMAGE
