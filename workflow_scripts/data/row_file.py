"""A .npy of uint8 rows that is filled in any order by several processes, and goes on where a killed run stopped.

`{path}.rows` is the file, `{path}.done` says of each row which image it holds and the checksum of its pixels, so that
rows that did not reach the disk, or are of another image, are made again.
"""

import contextlib
import os
import zlib

import numpy as np

STATE = np.dtype([("key", "<u8"), ("image", "<u8"), ("checksum", "<u4"), ("done", "<u4")])


class Rows:
    """Rows of the shape (N, ...); the bytes of each row are those of one image."""

    def __init__(self, path, shape, key, digests):
        """Open what an earlier run left, or begin.

        key: hex digest of all that decides a row besides its image; digests: hex SHA-256 of each image, or None.
        """
        self.data, self.done = f"{path}.rows", f"{path}.done"
        self.key = int(key[:16], 16)
        self.images = [0 if digest is None else int(digest[:16], 16) for digest in digests]
        self.offset, self.bytes = self._open(shape), int(np.prod(shape[1:]))
        self.descriptor = os.open(self.data, os.O_RDWR)
        self.state = np.memmap(self.done, STATE, "r+", shape=(shape[0],))

    def _open(self, shape):
        """Make the files unless there are such of this shape; return where the rows begin."""
        try:
            left = np.load(self.data, mmap_mode="r", allow_pickle=False)
            if left.shape == shape and os.path.getsize(self.done) == STATE.itemsize * shape[0]:
                return left.offset
        except (OSError, ValueError, EOFError):
            pass
        made = np.lib.format.open_memmap(self.data, mode="w+", dtype=np.uint8, shape=shape)
        _allocate(self.data)
        np.zeros(shape[0], STATE).tofile(self.done)
        return made.offset

    def missing(self):
        """Return the positions of the rows that are still to be made."""
        return [position for position in range(len(self.state)) if not self._is_done(position)]

    def _is_done(self, position):
        key, image, checksum, done = self.state[position].tolist()
        if not done or not image or (key, image) != (self.key, self.images[position]):
            return False
        return zlib.crc32(os.pread(self.descriptor, self.bytes, self._place(position))) == checksum

    def _place(self, position):
        return self.offset + position * self.bytes

    def put(self, position, pixels):
        """Write a row; called in any process."""
        row = pixels.tobytes()
        os.pwrite(self.descriptor, row, self._place(position))  # pages of a memory map would count as this process's
        self.state[position] = (self.key, self.images[position], zlib.crc32(row), 1)

    def finish(self, path):
        """Give the file its name; nothing else is left."""
        os.close(self.descriptor)
        os.replace(self.data, path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.done)


def _allocate(path):
    """Take the file's blocks now: a full disk is then an error here, and not a killed process at some image."""
    with open(path, "r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            os.unlink(path)
            raise OSError(error.errno, error.strerror, str(path)) from None
