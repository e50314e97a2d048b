"""Runtimes by name: each module of this folder is one, except those whose name starts with an underscore.

A runtime is one file with these functions (a new one needs its rows in config.yaml and devices/probe.py besides):

    fingerprint()                      -> dict: runtime, version, device...: nothing that changes by itself
    build(onnx, recipe, plan, engine)  -> dict: writes the engine file and says what it is (see `description`);
                                          `calibration=` (a cache's path) where a recipe quantizes implicitly
    load(engine, threads=0)            -> Session: from the file alone, in a fresh process
    inspect(engine)                    -> [{"name", "type", "precision"}]: the layers that a query really executes
    profile(engine, batch, threads=0)  -> [{"name", "type", "precision", "ms"}]: the same with the time that each takes

`recipe` is {"compute", "high_precision"?, "batches", ...}: the slices of a precision's and a target's row that the
runtime reads. `plan` names the nodes that keep a higher precision, or is None: a module that tells a builder of its
layers' precisions has TAKES_PLANS = True, others find all types in the graph.
"""

import collections
import difflib
import importlib
from pathlib import Path

from core.files import UserError

PRECISIONS = ("int8", "fp16", "bf16", "fp32")
CONVERSIONS = ("Reformat", "Reorder", "Cast", "Convert", "Quantize", "Dequantize", "QuantizeLinear", "DequantizeLinear")

# Arrays of milliseconds, one value a query, or None for what a device has not; wall: seconds of all queries together;
# energy: millijoules of the whole device meanwhile. latency is h2d + compute + d2h where there are transfers.
Timing = collections.namedtuple("Timing", "latency compute h2d d2h enqueue wall energy", defaults=(None,))


def names():
    """Return the names of the runtimes that there are files for."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def load(name):
    """Return a runtime's module by name; raise UserError with the nearest names where there is none."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=2) or names()
        raise UserError(f"unknown runtime {name}: did you mean {' or '.join(close)}?")
    return importlib.import_module(f"runtimes.{name}")


def import_library(name, remedy):
    """Return an imported third-party module; raise UserError with the remedy where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported here ({error}): {remedy}") from None


def description(fingerprint, layers, seconds, warnings, **more):
    """Return what `build` says of an engine.

    layers: as `inspect` returns them, or None where they cannot be read back. A layer that moves or converts data
    counts like any other, and once more in `reformats`; a layer whose type is none of PRECISIONS (shapes, indices) is
    listed but not counted there.
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


def missing_precisions(recipe, layers):
    """Return warnings for the precisions that a recipe asks for and no layer computes in: converting is no computing.

    Where the layers cannot be read back (None) the one warning is that nothing is known.
    """
    asked = [recipe["compute"]] + ([recipe["high_precision"]] if recipe.get("high_precision") else [])
    if not layers:
        return [f"whether any layer computes in {' or '.join(asked)} is not known: they cannot be read back"]
    present = {layer["precision"] for layer in layers if layer["type"] not in CONVERSIONS}
    return [f"the recipe asks for {name}, and no layer computes in it" for name in asked if name not in present]


class Session:
    """A loaded engine.

    inputs, outputs: {name: shape}, -1 where the size is free
    batches: the batch sizes it was built for, ascending, or None where any will do
    facts: what a benchmark records of how it runs: {"threads": int or None, "cuda_graph": bool or None}
    on_gpu: whether it is a GPU's clock and energy that count
    """

    on_gpu = False

    inputs, outputs, batches, facts = {}, {}, None, {}

    def run(self, images):
        """Return the logits, float32 [N, C], of images, float32 [N, 3, H, W], for any N."""
        raise NotImplementedError

    def optimization_profile(self, batch):
        """Return the number of the engine's optimization profile that a batch runs with."""
        return 0

    def time(self, images, loop):
        """Return the Timing of queries with these images: N must be one of `batches`, if there are any.

        loop: measure.timing.Loop, which says for how long and, where the host's clock will do, times a function.
        """
        raise NotImplementedError
