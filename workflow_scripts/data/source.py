"""Where the bytes of an image are: a file, or a member of a tar archive that is read in place."""

from __future__ import annotations

import os
import tarfile
from typing import BinaryIO, NamedTuple, Union


class Member(NamedTuple):
    """One file of an uncompressed tar: `offset` and size (`bytes`) of its content, and its `path` in the archive."""

    archive: str
    offset: int
    bytes: int
    path: str

    def __str__(self) -> str:
        return f"{self.path} in {self.archive}"


Source = Union[str, Member]


def read(source: Source) -> bytes:
    """Return the bytes of a source; raises OSError."""
    if not isinstance(source, Member):
        with open(source, "rb") as stream:
            return stream.read()
    with open(source.archive, "rb") as stream:
        stream.seek(source.offset)
        content = stream.read(source.bytes)
    if len(content) < source.bytes:
        raise OSError(f"{source.archive} ends within {source.path}")
    return content


def changed(source: Source) -> int | None:
    """Return the time of the last change in nanoseconds since 1970 (whole seconds for a Member), or None."""
    if not isinstance(source, Member):
        return os.stat(source).st_mtime_ns
    with open(source.archive, "rb") as stream:
        return member_changed(stream, source.offset, source.bytes)


def member_changed(stream: BinaryIO, offset: int, size: int) -> int | None:
    """Return the time in the header of a tar's member, as `changed` does, or None if it describes another file.

    An extended header before it may hold fractions of a second, which tar programs round or truncate: it is not used.
    """
    stream.seek(max(offset - tarfile.BLOCKSIZE, 0))
    try:
        header = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    return int(header.mtime) * 10**9 if header.size == size else None
