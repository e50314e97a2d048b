"""Images are read as their index knows them: by the SHA-256 of their bytes, or by their time where there is none."""

import hashlib
import multiprocessing
import time

from core.files import UserError
from data import preprocess, source

SETTLED = 2 * 10**9  # nanoseconds after which another write gives a file another time


def read(image, stamp):
    """Return the bytes of an image (a path or a Member); raise UserError where they are not those that were indexed.

    stamp: of data/index.py; None holds them to nothing.
    """
    data = preprocess.content(image)
    _check(data, image, stamp)
    return data


def _check(data, image, stamp):
    kind, _, value = (stamp or "").partition(":")
    if kind and value != (hashlib.sha256(data).hexdigest() if kind == "sha256" else str(source.changed(image))):
        raise UserError(f"image {image} has changed since it was indexed: delete the index and run again")


class Reader:
    """Reads images again and again, in any process of a family, and hashes each once for as long as it stays unchanged.

    That a file system's time of change (ctime) is the same says so: unlike the time of writing, no program sets it.
    """

    def __init__(self, images, stamps):
        """Read nothing yet. images: sources; stamps: of data/index.py."""
        self.images, self.stamps = images, stamps
        self._checked = multiprocessing.RawArray(
            "q", len(images)
        )  # ctime at which each was found to be the indexed one

    def read(self, item):
        """Return the bytes of an image, as `read` does."""
        image, before = self.images[item], self._time(item)
        data = preprocess.content(image)
        if not before or not (self._checked[item] == before == self._time(item)):
            _check(data, image, self.stamps[item])
            self._checked[item] = before if time.time_ns() - before > SETTLED else 0
        return data

    def _time(self, item):
        try:
            return source.status(self.images[item]).st_ctime_ns
        except OSError:  # reading says what is wrong
            return 0
