"""A .npy of uint8 rows, filled in any order by several processes; the next run continues an interrupted one.

`{path}.rows` is the file; `{path}.done` records the image and the checksum of each row, so that rows that did not reach
the disk, or hold another image, are written again.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Sequence

import numpy as np

from core.files import DONE, ROWS

STATE = np.dtype([("key", "<u8"), ("image", "<u8"), ("checksum", "<u4"), ("done", "<u4")])


class Rows:
    """Rows of shape (N, ...), each with the pixels of one image."""

    def __init__(self, path: str | os.PathLike, shape: tuple[int, ...], key: str, digests: Sequence) -> None:
        """Open the files of an earlier run, or create them.

        key: hex digest of all that a row depends on besides its image; digests: hex SHA-256 of each image, or None.
        """
        self.data, self.done = f"{path}{ROWS}", f"{path}{DONE}"
        self.key = int(key[:16], 16)
        self.images = [0 if digest is None else int(digest[:16], 16) for digest in digests]
        self.offset, self.bytes = self._open(shape), int(np.prod(shape[1:]))
        self.descriptor = os.open(self.data, os.O_RDWR)
        self.state = np.memmap(self.done, STATE, "r+", shape=(shape[0],))

    def _open(self, shape):
        """Create the files unless they exist with this shape; return the offset of the rows."""
        try:
            existing = np.load(self.data, mmap_mode="r", allow_pickle=False)
            if existing.shape == shape and os.path.getsize(self.done) == STATE.itemsize * shape[0]:
                return existing.offset
        except (OSError, ValueError, EOFError):
            pass
        created = np.lib.format.open_memmap(self.data, mode="w+", dtype=np.uint8, shape=shape)
        _allocate(self.data)
        np.zeros(shape[0], STATE).tofile(self.done)
        return created.offset

    def missing(self) -> list[int]:
        """Return the positions of the rows that are not written yet."""
        return [position for position in range(len(self.state)) if not self._is_done(position)]

    def _is_done(self, position):
        key, image, checksum, done = self.state[position].tolist()
        if not done or not image or (key, image) != (self.key, self.images[position]):
            return False
        return zlib.crc32(os.pread(self.descriptor, self.bytes, self.offset + position * self.bytes)) == checksum

    def put(self, position: int, pixels: np.ndarray) -> None:
        """Write a row; any process may call this."""
        row = pixels.tobytes()
        os.pwrite(self.descriptor, row, self.offset + position * self.bytes)  # a memory map would count as ours
        self.state[position] = (self.key, self.images[position], zlib.crc32(row), 1)

    def finish(self, path: str | os.PathLike) -> None:
        """Rename the file to `path` and remove the state."""
        os.close(self.descriptor)
        os.replace(self.data, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.done)


def _allocate(path):
    """Allocate the file's blocks: a full disk is then an error here instead of a process killed midway."""
    with open(path, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            os.unlink(path)
            raise OSError(error.errno, error.strerror, str(path)) from None
