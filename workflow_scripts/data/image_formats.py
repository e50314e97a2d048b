"""Which files are images: those of a fixed list of Pillow's formats, recognised by name or by content.

No other format is tried, so that no file starts another program (Pillow passes EPS to Ghostscript).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff")
SUFFIXES += (".webp", ".gif", ".jfif", ".jpe", ".jp2", ".avif")  # the name is enough; others go by content
OTHERS: tuple[str, ...] = (".heic", ".heif", ".svg", ".eps", ".psd", ".pdf", ".ico", ".tga", ".exr", ".hdr", ".jxl")
OTHERS += (".dcm", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".npy")
HEAD = 32  # first bytes of a file that identify its format
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0|II[*+]\0"
    rb"|MM\0[*+]|P[1-6]\s+[#0-9]|\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n|....ftypavi[fs]",
    re.DOTALL,
)
EMPTY, UNREADABLE, UNREAD, NO_IMAGE = "empty", "unreadable", "image of a format that is not read", "not an image"


@functools.lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """Return the members of FORMATS that the installed Pillow decodes."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def has_magic(head: bytes) -> bool:
    """Return whether the first HEAD bytes of a file are those of an image."""
    return MAGIC.match(head) is not None


def head_of(path: str) -> bytes:
    """Return the first HEAD bytes of a file; raises OSError."""
    with open(path, "rb") as stream:
        return stream.read(HEAD)


def refusal(name: str, size: int, head: Callable[[], bytes]) -> str | None:
    """Return why a file is not an image, or None; head: returns its first HEAD bytes, or raises OSError."""
    if name.lower().endswith(SUFFIXES):
        return None
    if not size:
        return EMPTY
    try:
        if has_magic(head()):
            return None
    except OSError:
        return UNREADABLE
    return UNREAD if os.path.splitext(name.lower())[1] in OTHERS else NO_IMAGE
