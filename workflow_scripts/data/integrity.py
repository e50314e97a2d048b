"""Read images and check that they are those of the index, by SHA-256 or by the time of their last change."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import time
from collections.abc import Sequence

from core.files import UserError
from data import preprocess, source

SETTLED = 2 * 10**9  # nanoseconds after which another write changes a file's time


def read(image: source.Source, stamp: str | None) -> bytes:
    """Return the bytes of an image; raise UserError if they do not fit its stamp (data/index.py; None: any do)."""
    data = preprocess.content(image)
    _check(data, image, stamp)
    return data


def _check(data, image, stamp):
    kind, _, value = (stamp or "").partition(":")
    if kind and value != (hashlib.sha256(data).hexdigest() if kind == "sha256" else str(source.changed(image))):
        raise UserError(f"image {image} has changed since it was indexed: delete the index and run again")


class Reader:
    """Reads images repeatedly, in any of the forked processes, and hashes each again only if its ctime has changed.

    The ctime is reliable: unlike the mtime, no program can set it.
    """

    def __init__(self, images: Sequence[source.Source], stamps: Sequence[str]) -> None:
        """Prepare without reading any image. stamps: of data/index.py."""
        self.images, self.stamps = images, stamps
        self._checked = multiprocessing.RawArray("q", len(images))  # ctime of each image when it was last checked

    def read(self, item: int) -> bytes:
        """Return the bytes of an image, as the function `read` does."""
        image, before = self.images[item], self._time(item)
        data = preprocess.content(image)
        if not before or not (self._checked[item] == before == self._time(item)):
            _check(data, image, self.stamps[item])
            self._checked[item] = before if time.time_ns() - before > SETTLED else 0
        return data

    def _time(self, item):
        image = self.images[item]
        try:
            return os.stat(image.archive if isinstance(image, source.Member) else image).st_ctime_ns
        except OSError:  # reading reports it
            return 0
