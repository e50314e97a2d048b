"""Images through a classifier in batches: the next batch is decoded while the engine runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from core import processors
from core.files import UserError
from deployment import image_sources

BATCH = 16  # where an engine takes any


def batch_of(model: Any, asked: int | None) -> int:
    """Return the images of a query: as asked, or the largest batch that the engine was built for."""
    return asked or (max(model.batches) if model.batches else BATCH)


def classified(
    model: Any, sources: list[str], asked: int | None = None
) -> Iterator[tuple[str, np.ndarray | None, UserError | None]]:
    """Yield (name, logits float32 [classes], None) of each image of some sources, or (name, None, problem)."""
    live = any(map(image_sources.is_live, sources))
    batch = 1 if live and not asked else batch_of(model, asked)
    yield from of_images(model, itertools.chain.from_iterable(map(_read, sources)), batch, ahead=not live)


def of_images(
    model: Any, images: Iterable[tuple[str, bytes | UserError]], batch: int, ahead: bool = True
) -> Iterator[tuple[str, np.ndarray | None, UserError | None]]:
    """Yield the same for (name, bytes or problem) of images. ahead: whether to read on while the engine runs."""
    source = iter(images)
    with ThreadPoolExecutor(processors.available()) as pool:
        groups = iter(lambda: list(itertools.islice(source, batch)), [])
        started = ([(name, pool.submit(_pixels, model, name, data)) for name, data in group] for group in groups)
        waiting = next(started, None) if ahead else None
        for group in started:
            yield from _run(model, waiting or group)
            waiting = group if ahead else None
        yield from _run(model, waiting or [])


def _read(source):
    """Yield the images of a source; the problem that ends it comes last."""
    try:
        yield from image_sources.images(source)
    except UserError as problem:
        yield source, problem


def _pixels(model, name, data):
    if isinstance(data, UserError):
        return data
    try:
        return model.pixels(data, name)
    except UserError as problem:
        return problem


def _run(model, group):
    results = [(name, future.result()) for name, future in group]
    good = [pixels for _, pixels in results if not isinstance(pixels, UserError)]
    logits = iter(model.logits(np.stack(good)) if good else ())
    for name, result in results:
        row = None if isinstance(result, UserError) else next(logits)
        if row is not None and not np.isfinite(row).all():
            row, result = None, UserError(f"{name}: its logits are not finite: run selftest")
        yield (name, None, result) if row is None else (name, row, None)
