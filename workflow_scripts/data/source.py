"""Where an image's bytes are: a file, or a place in a tar archive, which is read there and never unpacked."""

import os
import tarfile
from typing import NamedTuple, Union


class Member(NamedTuple):
    """One file of an uncompressed tar: `offset` and `bytes` of its content in the archive, `path` in it."""

    archive: str
    offset: int
    bytes: int
    path: str

    def __str__(self):
        return f"{self.path} in {self.archive}"


Source = Union[str, Member]


def read(source):
    """Return the bytes of a source (a path or a Member); raises OSError."""
    if not isinstance(source, Member):
        with open(source, "rb") as stream:
            return stream.read()
    with open(source.archive, "rb") as stream:
        stream.seek(source.offset)
        content = stream.read(source.bytes)
    if len(content) < source.bytes:
        raise OSError(f"{source.archive} ends within {source.path}")
    return content


def status(source):
    """Return the os.stat_result of a source's file; raises OSError."""
    return os.stat(source.archive if isinstance(source, Member) else source)


def changed(source):
    """Return when a source was last changed, in nanoseconds since 1970 (of a Member whole seconds), or None."""
    if not isinstance(source, Member):
        return os.stat(source).st_mtime_ns
    with open(source.archive, "rb") as stream:
        return member_changed(stream, source.offset, source.bytes)


def member_changed(stream, offset, size):
    """Return the time in the header before a tar's member, as `changed` does: None where that describes another file.

    The header is what counts: an extended one before it has fractions of a second, which tar programs round or cut.
    """
    stream.seek(max(offset - tarfile.BLOCKSIZE, 0))
    try:
        found = tarfile.TarInfo.frombuf(stream.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    return int(found.mtime) * 10**9 if found.size == size else None
