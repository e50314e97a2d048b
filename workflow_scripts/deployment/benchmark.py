"""Time a bundle from image files to classes, beside its engine alone and the figure of its result."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from data import preprocess
from deployment import image_sources, stream
from deployment.classifier import SAMPLES


def run(model: Any, sources: list[str], asked: int | None, seconds: float) -> int:
    """Print images per second: from files, of preprocessed pixels, and as the result has it; return the status."""
    folder = os.path.dirname(os.path.join(model.folder, SAMPLES))
    images = [image for source in sources or [folder] for image in image_sources.images(source)]
    batch = stream.batch_of(model, asked)
    pixels = np.stack([model.pixels(data, name) for name, data in itertools.islice(itertools.cycle(images), batch)])
    ready = preprocess.for_session(model.session, pixels, model.preprocessing)
    rates = {
        f"from {len(images)} files to classes": _rate(lambda: _passes(model, images, batch), seconds),
        "of what the engine takes to logits": _rate(lambda: _queries(model.session, ready), seconds),
    }
    rates.update({f"in result.json at batch {e['batch']}": e["images_per_second"] for e in model.result["benchmark"]})
    for what, rate in rates.items():
        print(f"{rate:10.1f} images/s {what}" + ("" if "result" in what else f", batch {batch}"))
    return 0


def _rate(start: Callable[[], Iterator[int]], seconds: float) -> float:
    """Return images per second of an endless iterator of counts, after a tenth of the time as warm-up."""
    counts = start()
    _for(counts, seconds / 10)
    begin = time.perf_counter()
    done = _for(counts, seconds)
    return done / (time.perf_counter() - begin)


def _for(counts, seconds):
    end, done = time.perf_counter() + seconds, 0
    for count in counts:
        done += count
        if time.perf_counter() >= end:
            break
    return done


def _passes(model, images, batch):
    for _, logits, problem in stream.of_images(model, itertools.cycle(images), batch):
        if problem:
            raise problem
        model.top(logits)
        yield 1


def _queries(session, ready):
    while True:
        session.run(ready)
        yield len(ready)
