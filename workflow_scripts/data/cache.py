"""Preprocessed images as one .npy of uint8 [N, size, size, 3], filled by several processes, read as a memory map."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from core import processors
from core.files import UserError, digest_of
from data import integrity, preprocess, processes
from data.row_file import Rows
from data.source import Source

log = logging.getLogger("levit")
SHARE = 8  # least number of images that a further process is started for
BAD = 20  # unreadable images after which no more are looked for
BLOCK = 16 << 20  # bytes copied at a time
RELEASE = 64 << 20  # bytes read from a memory map before its pages are released


def write(
    path: str | os.PathLike,
    images: Sequence[Source],
    geometry: dict,
    workers: int = 0,
    digests: Sequence[str | None] | None = None,
    code: str | None = None,
    rows: str | os.PathLike | None = None,
) -> int:
    """Preprocess images into `path`, in their order, and return how many an earlier run had not finished.

    geometry: {size, crop, crop_mode, interpolation} of a model's file; workers: processes (0: one a core);
    digests: SHA-256 that the bytes of each image must have; code: hash of the preprocessing code;
    rows: prefix of the unfinished files from which the next run continues (see Rows), `path` by default.
    Raises UserError that names unreadable images.
    """
    size = geometry["size"]
    preprocess.filter_of(geometry["interpolation"])
    digests = digests or [None] * len(images)
    table = Rows(rows or path, (len(images), size, size, 3), digest_of([geometry, code]), digests)
    missing, name = table.missing(), os.path.basename(str(path))
    count = max(1, min(workers or processors.available(), len(missing) // SHARE))
    fill = functools.partial(_fill, table, images, digests, geometry)
    with contextlib.closing(processes.imap(fill, missing, f"decode {name}", "image", count)) as messages:
        problems = sorted(itertools.islice(filter(None, messages), BAD))
    for problem in problems[1:]:
        log.warning(problem)
    if problems:
        raise UserError(problems[0] + (f" (and {len(problems) - 1} others)" if problems[1:] else ""))
    table.finish(path)
    return len(missing)


def _fill(table, images, digests, geometry, position):
    """Preprocess one image into its row; return the text of an error, or None."""
    try:
        content = integrity.read(images[position], digests[position] and f"sha256:{digests[position]}")
        table.put(position, preprocess.pixels(content, images[position], geometry))
    except UserError as error:
        return str(error)
    except MemoryError:
        return f"no memory left at image {images[position]}: use fewer --workers"
    return None


def read(path: str | os.PathLike, count: int | None = None) -> np.ndarray:
    """Return the memory-mapped uint8 [N, size, size, 3]; raise UserError if it is damaged or N is not `count`."""
    try:
        images = np.load(str(path), mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (ValueError, EOFError, OSError):
        raise UserError(f"{path} is not a file of preprocessed images: delete it and run again") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{path} holds {images.dtype} {list(images.shape)}, not uint8 [N, size, size, 3]: delete it")
    if count is not None and len(images) != count:
        raise UserError(f"{path} holds {len(images)} images, its split {count}: delete it and run again")
    return images


def join(path: str | os.PathLike, shards: Sequence[str], count: int) -> None:
    """Write the images of several such files to one, in their order; raise UserError if they are not `count`."""
    parts = [read(shard) for shard in shards]
    if sum(map(len, parts)) != count or len({part.shape[1:] for part in parts}) > 1:
        shapes = ", ".join(f"{shard} {list(part.shape)}" for shard, part in zip(shards, parts))
        raise UserError(f"{shapes} are not the shards of a split of {count} images: delete them and run again")
    with open(path, "wb") as stream:
        header = np.lib.format.header_data_from_array_1_0(parts[0])
        np.lib.format.write_array_header_1_0(stream, {**header, "shape": (count, *parts[0].shape[1:])})
        for shard, part in zip(shards, parts):
            with open(shard, "rb") as source:
                source.seek(part.offset)  # type: ignore[attr-defined]
                shutil.copyfileobj(source, stream, BLOCK)


def batches(images: np.ndarray, step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first position, uint8 [step, size, size, 3]) of all images; release a memory map's pages in between."""
    pages, resident = getattr(images, "_mmap", None), 0
    for start in range(0, len(images), step):
        batch = images[start : start + step]
        yield start, batch
        resident += batch.nbytes
        if pages is not None and resident >= RELEASE:
            pages.madvise(mmap.MADV_DONTNEED)
            resident = 0
