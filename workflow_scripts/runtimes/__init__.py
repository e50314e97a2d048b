"""Runtimes by name: each module of this folder is one, except those whose name starts with an underscore.

A runtime is one file with these functions (a new one also needs its rows in config.yaml and devices/probe.py):

    fingerprint()                      -> dict: runtime, version, device...: nothing that changes by itself;
                                          `device` of a target's row is its argument, where that has one
    build(onnx, recipe, plan, engine)  -> dict: writes the engine file and describes it (see `description`);
                                          `onnx` is a file in the format of the target's graph variant
                                          `calibration=` (a cache's path) where a recipe quantizes implicitly
    load(engine, threads=0)            -> Session: from the file alone, in a fresh process
    inspect(engine)                    -> [{"name", "type", "precision"}]: the layers that a query executes
    profile(engine, batch, threads=0)  -> [{"name", "type", "precision", "ms"}]: the same with the time of each

`recipe` is {"compute", "high_precision"?, "batches", ...}: the slices of a precision's and a target's row that the
runtime reads. `plan` names the nodes that keep a higher precision, or is None: a module that sets the precision of a
builder's layers has TAKES_PLANS = True, others read all types from the graph.
"""

from __future__ import annotations

import collections
import contextlib
import gc
import importlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.files import UserError
from core.suggest import nearest

PRECISIONS = ("int8", "fp16", "bf16", "fp32")
CONVERSIONS = ("Reformat", "Reorder", "Cast", "Convert", "Quantize", "Dequantize", "QuantizeLinear", "DequantizeLinear")

PLUGIN = "LEVIT_PLUGIN"  # environment: path of liblevit_attention.so; without it none is loaded

# Arrays of milliseconds, one value a query, or None where a device has no such phase; wall: seconds of all queries
# together; energy: millijoules of the whole device meanwhile. latency is h2d + compute + d2h where there are transfers.
Timing = collections.namedtuple("Timing", "latency compute h2d d2h enqueue wall energy", defaults=(None,))


def names() -> list[str]:
    """Return the names of the runtimes, one for each public module."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def load(name: str, plugin: str | None = None) -> Any:
    """Return a runtime's module by name; raise UserError with the nearest names where there is none.

    plugin: path of a library that its engines may need, which is loaded with the runtime's; an empty file is none.
    """
    if plugin and os.path.getsize(plugin):
        os.environ[PLUGIN] = os.path.abspath(plugin)  # for processes that this one starts as well
    if name not in names():
        raise UserError(f"unknown runtime {name}: {nearest(name, names())}")
    return importlib.import_module(f"{__name__}.{name}")


def import_library(name: str, remedy: str) -> Any:
    """Return an imported third-party module; raise UserError with the remedy where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported here ({error}): {remedy}") from None


def description(fingerprint: dict, layers: list[dict] | None, seconds: float, warnings: list[str], **more: Any) -> dict:
    """Return the description of an engine that `build` returns.

    layers: as `inspect` returns them, or None where they cannot be read back. A layer that moves or converts data
    counts like any other, and once more in `reformats`; a layer whose type is none of PRECISIONS (shapes, indices) is
    listed but not counted in `precision_of_layers`.
    """
    counts = layers and {name: sum(layer["precision"] == name for layer in layers) for name in PRECISIONS}
    return {
        "fingerprint": fingerprint,
        "layers": layers,
        "layer_count": len(layers) if layers else None,
        "precision_of_layers": counts or None,
        "reformats": sum(layer["type"] in CONVERSIONS for layer in layers) if layers else None,
        "build_seconds": round(seconds, 3),
        "engine_builds": 1,
        "warnings": warnings,
        **more,
    }


def fingerprint(runtime: Any, row: dict) -> dict:
    """Return what a runtime's `fingerprint` says of the device of a target's row or recipe."""
    return runtime.fingerprint(row["device"]) if row.get("device") else runtime.fingerprint()


def requested_precisions(recipe: dict) -> list[str]:
    """Return the precisions that a recipe computes in."""
    return [recipe["compute"]] + ([recipe["high_precision"]] if recipe.get("high_precision") else [])


def check_recipe(runtime: str, recipe: dict, computes: Iterable[str], plan: dict | None = None) -> None:
    """Raise UserError for a precision that a runtime does not compute in here, and for a plan of precisions."""
    if plan is not None:
        raise UserError(f"{runtime} takes no plan of precisions: the types are in the graph (placement of quantizers)")
    for kind in requested_precisions(recipe):
        if kind not in computes:
            raise UserError(f"{runtime} cannot compute in {kind} here: one of {', '.join(computes)}")


def missing_precisions(recipe: dict, layers: list[dict] | None) -> list[str]:
    """Return a warning for each precision that a recipe asks for and no layer computes in; converting does not count.

    A warning says where the layers cannot be read back (None).
    """
    requested = requested_precisions(recipe)
    if not layers:
        return [f"whether any layer computes in {' or '.join(requested)} is not known: they cannot be read back"]
    present = {layer["precision"] for layer in layers if layer["type"] not in CONVERSIONS}
    return [f"the recipe asks for {name}, and no layer computes in it" for name in requested if name not in present]


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Collect garbage, then keep the collector off while time is measured."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Session:
    """A loaded engine.

    name: the engine file, for messages
    inputs, outputs: {name: shape}, -1 where the size is free
    dtype: of the images: float32, normalized [N, 3, H, W], or uint8 pixels [N, H, W, 3] where it normalizes them itself
    batches: the batch sizes that it was built for, ascending; empty where it takes any
    facts: what a benchmark records of how it runs: {"threads": int or None, "cuda_graph": bool or None}
    on_gpu: whether the GPU's clock and energy count, not the host's
    """

    name = "engine"
    dtype: type = np.float32
    on_gpu = False
    inputs: dict[str, list[int]] = {}
    outputs: dict[str, list[int]] = {}
    batches: list[int] | None = None
    facts: dict[str, Any] = {}

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return the logits, float32 [N, C], of images of the session's `dtype`, for any N."""
        images = self._checked(images)
        logits, start = [], 0
        while start < len(images):
            part = images[start : start + self._fitting(len(images) - start)]
            logits.append(self._run_batch(part))
            start += len(part)
        return np.concatenate(logits)

    def optimization_profile(self, batch: int) -> int:
        """Return the number of the engine's optimization profile that a batch runs with."""
        return 0

    def time(self, images: np.ndarray, loop: Any) -> Timing:
        """Return the Timing of queries with these images: N must be one of `batches`, if there are any.

        loop: measure.timing.Loop, which says for how long and, where the host's clock will do, times a function.
        """
        raise NotImplementedError

    def _run_batch(self, part):
        """Return the logits of at most as many images as one query takes."""
        raise NotImplementedError

    def _fitting(self, count):
        """Return the largest batch of at most `count`, else the smallest there is; any where the engine is free."""
        if not self.batches:
            return count
        return max((size for size in self.batches if size <= count), default=min(self.batches))

    def _timed(self, images):
        """Return images as `_checked` does; raise UserError where the engine was built for batches without theirs."""
        if self.batches and len(images) not in self.batches:
            built = ", ".join(map(str, self.batches))
            raise UserError(f"{self.name} has no batch {len(images)}, only {built}: add it to the target's batches")
        return self._checked(images)

    def _checked(self, images):
        """Return images as a contiguous array of `dtype`; raise UserError where type or shape are not the engine's."""
        images = np.asarray(images)
        if np.uint8 in (self.dtype, images.dtype) and self.dtype != images.dtype:
            raise UserError(f"{self.name} takes images of {np.dtype(self.dtype)}, got {images.dtype}")
        images = np.ascontiguousarray(images, dtype=self.dtype)
        expected = list(next(iter(self.inputs.values())))[1:]
        if images.ndim != 4 or len(images) == 0 or any(e not in (-1, n) for e, n in zip(expected, images.shape[1:])):
            raise UserError(f"{self.name} takes images of {expected}, got {list(images.shape)}")
        return images
