"""Where images come from: files, folders, HTTP (JPEG or MJPEG) and standard input."""

from __future__ import annotations

import collections
import functools
import http.client
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

from core import addresses
from core.files import UserError
from data import image_formats, preprocess, walk

WEB, STDIN = ("http://", "https://"), "-"
TIMEOUT = 20  # seconds that a server may be silent
BLOCK = 1 << 16
LARGEST = 256 << 20  # bytes of an image
START = b"\xff\xd8\xff"
MARKER = re.compile(b"\xff[^\\x00\xd0-\xd7\xff]")  # the next one after entropy-coded data
ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a segment
END_OF_IMAGE, START_OF_SCAN, FILL = 0xD9, 0xDA, 0xFF


def is_live(source: str) -> bool:
    """Return whether a source may be a stream, whose images are classified as they come."""
    return source == STDIN or source.startswith(WEB)


def images(source: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of each image of a source; raise UserError if there is none, or it cannot be read."""
    if source == STDIN:
        if sys.stdin is None:
            raise UserError("stdin is closed")
        yield from _of_stream("stdin", sys.stdin.buffer)
    elif source.startswith(WEB):
        yield from _of_address(source)
    elif os.path.isdir(source):
        yield from ((path, preprocess.content(path)) for path in _below(source))
    elif os.path.exists(source):
        yield source, preprocess.content(source)
    else:
        raise UserError(f"{source}: no such file or folder")


def _below(folder):
    """Return the sorted paths of the images in a folder and below; raise UserError if there are none."""
    walked = ((os.path.join(folder, name), status) for name, status in walk.files(folder, collections.Counter()))
    with_heads = ((path, status.st_size, functools.partial(image_formats.head_of, path)) for path, status in walked)
    paths = sorted(path for path, size, head in with_heads if image_formats.refusal(path, size, head) is None)
    if not paths:
        raise UserError(f"{folder} has no images")
    return paths


def _of_address(address):
    url, credentials = addresses.without_user(address)
    request = urllib.request.Request(url, headers={"Authorization": credentials} if credentials else {})
    name = addresses.public(address)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            yield from _of_stream(name, response)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = addresses.hide(" ".join(str(getattr(error, "reason", None) or error).split()), address)
        raise UserError(f"{name} cannot be read: {reason}") from None


def _of_stream(name, stream):
    """Yield the JPEGs of a stream one by one, or all of it as one image where it is of another format.

    Such an image may contain a JPEG: a thumbnail, say.
    """
    first = stream.read1(BLOCK)
    is_other = image_formats.has_magic(first[: image_formats.HEAD]) and not first.startswith(START)
    if not is_other and (START in first or first.lstrip().startswith(b"--")):  # multipart: headers stand before each
        for number, data in enumerate(jpegs(stream, first, name)):
            yield f"{name}#{number}", data
    elif first:
        yield name, first + stream.read(LARGEST)
    else:
        raise UserError(f"{name} is empty")


def jpegs(stream: Any, buffer: bytes = b"", name: str = "the stream") -> Iterator[bytes]:
    """Yield the bytes of each JPEG of a binary stream; what stands between two is skipped.

    buffer: what was read before; name: of the stream. Raises UserError for a JPEG that does not end.
    """
    while True:
        start = buffer.find(START)
        buffer = buffer[max(start, 0) :] if start >= 0 else buffer[-2:]
        end = _end(buffer) if start >= 0 else None
        if end is not None:
            yield buffer[:end]
            buffer = buffer[end:]
            continue
        block = stream.read1(BLOCK)
        if len(buffer) > LARGEST or (start >= 0 and not block):
            problem = f"has a JPEG of more than {LARGEST} bytes" if block else "ends within a JPEG"
            raise UserError(f"{name} {problem}")
        if not block:
            return
        buffer += block


def _end(buffer):
    """Return where the JPEG at the start of a buffer ends, or None if that comes later; segments may hold others."""
    place = 2
    while place + 4 <= len(buffer) or buffer[place : place + 2] == b"\xff\xd9":
        kind = buffer[place + 1] if buffer[place] == FILL else END_OF_IMAGE  # damaged: decoding will tell
        if kind == END_OF_IMAGE:
            return place + 2
        if kind == FILL:
            place += 1
        elif kind in ALONE:
            place += 2
        else:
            place += 2 + int.from_bytes(buffer[place + 2 : place + 4], "big")
            if kind == START_OF_SCAN:
                marker = MARKER.search(buffer, place)
                if marker is None:
                    return None
                place = marker.start()
    return None
