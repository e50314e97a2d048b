"""Read the fields of protobuf messages: a device has no onnx package to read graphs with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SIZES = {1: 8, 5: 4}  # bytes of a value by wire type; type 0 is an integer, type 2 begins with its size


def fields(message: Any) -> Iterator[tuple[int, Any, Any]]:
    """Yield (number, value, bytes of the whole field); a value is an integer or bytes. LookupError: no message."""
    at = 0
    while at < len(message):
        start, (key, at) = at, _integer(message, at)
        number, kind = key >> 3, key & 7
        value, at = _integer(message, at) if kind in (0, 2) else (SIZES[kind], at)
        end = at if kind == 0 else at + value
        yield number, value if kind == 0 else message[at:end], message[start:end]
        at = end


def _integer(message, at):
    """Return (value, position behind it) of an integer of seven bits a byte, the lowest first."""
    value, shift = 0, 0
    while True:
        byte, at = message[at], at + 1
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, at
