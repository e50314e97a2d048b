"""A bundle's engine with its preprocessing and its classes: images in, logits and labels out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

import runtimes
from core import resolved
from core.files import UserError, read_json
from data import preprocess
from deployment import compatibility
from devices import probe

ENGINE, PLUGIN, CLASSES = "model.engine", "plugin.so", "classes.txt"
PREPROCESS, RESULT, SAMPLES = "preprocess.json", "result.json", "samples/samples.json"


class Classifier:
    """A loaded bundle.

    classes: the names of the classes, in the order of the logits; size: of the network's images in pixels;
    batches: the batch sizes of the engine, None or empty where it takes any; warnings: how this machine differs from
    the one that the bundle was made on
    """

    def __init__(self, folder: str, threads: int | None = None, session: runtimes.Session | None = None) -> None:
        """Load the bundle in a folder; raise UserError if it is damaged or its engine does not run here.

        threads: of a runtime on the processor (0: all cores), by default as the engine was timed; session: of an engine
        that runs elsewhere, in place of the bundle's.
        """
        self.folder, self.result = folder, _read(folder, RESULT, ("target_identity", "provenance", "benchmark"))
        self.preprocessing = _read(folder, PREPROCESS, (*resolved.GEOMETRY, *resolved.NORMALIZATION))
        self.warnings: list[str] = []
        self.session = session or self._load(threads)
        self.batches, self.size = self.session.batches, self.preprocessing["size"]
        self.classes = _classes(os.path.join(folder, CLASSES))
        self._check_classes(self.session.outputs)

    def _load(self, threads):
        row = self.result["provenance"]["recipe"]["target"]
        here = probe.facts(row["runtime"], row.get("device"))
        self.warnings = compatibility.check(self.result["target_identity"], here)
        path, plugin = (os.path.join(self.folder, name) for name in (ENGINE, PLUGIN))
        runtime = runtimes.load(row["runtime"], plugin if os.path.exists(plugin) else None)
        return runtime.load(path, row.get("threads", 0) if threads is None else threads)

    def _check_classes(self, outputs):
        count = next(iter(outputs.values()))[-1]
        if count not in (-1, len(self.classes)):
            classes = f"{CLASSES} has {len(self.classes)} classes, and the engine {count}"
            raise UserError(f"{classes}: give one line for each")

    def tensors(self) -> dict:
        """Return the engine's tensors: {"input", "output", "dtype", "shape", "batches"}, -1 where a size is free."""
        ((source, shape),), (target,) = self.session.inputs.items(), self.session.outputs
        dtype, batches = np.dtype(self.session.dtype).name, list(self.batches or ())
        return {"input": source, "output": target, "dtype": dtype, "shape": list(shape), "batches": batches}

    def pixels(self, data: bytes, name: str = "image") -> np.ndarray:
        """Return an image file's bytes as uint8 [size, size, 3]; raise UserError naming it if they are no image."""
        return preprocess.pixels(data, name, self.preprocessing)

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [N, classes], of preprocessed images, uint8 [N, size, size, 3], for any N."""
        logits = self.session.run(preprocess.for_session(self.session, pixels, self.preprocessing))
        self._check_classes({"logits": logits.shape})
        return logits

    def top(self, logits: np.ndarray, count: int = 5) -> list[dict]:
        """Return the most probable classes of logits [classes]: class, index, probability and logit of each."""
        shares = np.exp(logits.astype(np.float64) - logits.max())
        shares /= shares.sum()
        order = np.argsort(-logits, kind="stable")[: max(count, 1)]
        figures = [(int(i), round(float(shares[i]), 6), round(float(logits[i]), 5)) for i in order]
        return [{"class": self.classes[i], "index": i, "probability": p, "logit": logit} for i, p, logit in figures]

    def classify(self, images: Sequence[bytes], count: int = 5) -> list[list[dict]]:
        """Return the most probable classes of each of some image files' bytes, as `top` does."""
        pixels = np.stack([self.pixels(data, f"{number}") for number, data in enumerate(images)])
        return [self.top(logits, count) for logits in self.logits(pixels)]


def _read(folder, name, keys):
    """Return a JSON file of the bundle; raise UserError if it lacks a key."""
    content = read_json(os.path.join(folder, name))
    missing = [key for key in keys if key not in content]
    if missing:
        raise UserError(f"{name} lacks {', '.join(missing)}: unpack the bundle again")
    return content


def _classes(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()
