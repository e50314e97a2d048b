"""TensorRT's calibration cache: a line that names the version, then `tensor: scale`, the float32 in hexadecimal."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from core.files import UserError
from runtimes import _layers

HEADER = re.compile(r"TRT-\d+-EntropyCalibration2")
QMAX = 127  # a scale is the largest magnitude over this
SMALLEST = 1e-6  # magnitude that a constant of zeros gets, so that its scale is positive
MOVING = ("SHUFFLE", "IDENTITY", "SLICE", "CONCATENATION", "GATHER", "CAST", "SQUEEZE", "UNSQUEEZE")


def header(version: str) -> str:
    """Return the first line of a cache for a TensorRT version such as 8.5.3.1."""
    major, minor, patch = ([int(part) for part in re.findall(r"\d+", version)] + [0, 0])[:3]
    number = major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-EntropyCalibration2"


def text(scales: dict[str, float], version: str) -> str:
    """Return the cache of {tensor name: scale} for a TensorRT version: equal text for equal scales."""
    lines = [f"{name}: {hexadecimal(scale)}" for name, scale in sorted(scales.items())]
    return "\n".join([header(version), *lines]) + "\n"


def hexadecimal(scale: float) -> str:
    """Return the big-endian hexadecimal digits of a scale as float32: 1.0 is 3f800000."""
    return struct.pack(">f", scale).hex()


def read(path: str | Path) -> dict[str, float]:
    """Return {tensor name: scale} of a cache file of any version; raise UserError where it is none."""
    try:
        first, *lines = Path(path).read_text(encoding="utf-8").splitlines() or [""]
        pairs = [line.rsplit(": ", 1) for line in lines if line]
        scales = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in pairs}
    except (ValueError, struct.error):
        first = ""
    if not HEADER.fullmatch(first):
        raise UserError(f"{path} is not a TensorRT calibration cache: delete it and run again")
    return scales


# A parser adds tensors: a Gemm becomes two constants, a broadcast, a product and a sum, a Softmax two layers. TensorRT
# computes no layer in INT8 that reads or writes a tensor without a scale.


def complete(trt: Any, network: Any, scales: dict[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return (scales and those that follow from them for a network's other tensors, sorted names of the rest).

    scales: {tensor name: scale}, which stay. A later rule applies only where the earlier ones yield no more.
    """
    ends = [(layer, *_floats(trt, layer)) for layer in _layers.layers_of(network)]
    completed = dict(scales)
    while any(_infer(rule, trt, ends, completed) for rule in (_constant, _moved, _softmax, _summed)):
        pass
    names = {name for _, inputs, outputs in ends for name in inputs + outputs}
    return completed, sorted(names - completed.keys())


def _floats(trt, layer):
    """Return the names of a layer's inputs and of its outputs that are numbers, not shapes."""
    kinds = (trt.float32, trt.float16)
    ends = _layers.inputs_of(layer), _layers.outputs_of(layer)
    return [[tensor.name for tensor in tensors if tensor.dtype in kinds] for tensors in ends]


def _infer(rule, trt, ends, scales):
    """Add the scales that a rule yields for tensors without one; return whether there are any."""
    before = len(scales)
    for layer, inputs, outputs in ends:
        if not scales.keys() >= {*inputs, *outputs}:
            for name, scale in rule(trt, layer, inputs, outputs, scales).items():
                scales.setdefault(name, scale)
    return len(scales) > before


def _constant(trt, layer, inputs, outputs, scales):
    """A constant has its own largest magnitude."""
    if not _layers.is_kind(trt, layer, "CONSTANT") or not outputs:
        return {}
    layer.__class__ = trt.IConstantLayer  # the network gives all layers as their base class
    magnitude = float(np.abs(np.asarray(layer.weights, dtype=np.float32)).max(initial=0))
    return {outputs[0]: max(magnitude, SMALLEST) / QMAX}


def _moved(trt, layer, inputs, outputs, scales):
    """A layer that moves or joins numbers has the largest scale of its inputs; else its inputs have its output's."""
    if not _layers.is_kind(trt, layer, *MOVING):
        return {}
    known = [scales[name] for name in inputs if name in scales]
    if known and len(known) == len(inputs):
        return dict.fromkeys(outputs, max(known))
    behind = [scales[name] for name in outputs if name in scales]
    return dict.fromkeys(inputs, max(behind)) if behind else {}


def _softmax(trt, layer, inputs, outputs, scales):
    return dict.fromkeys(outputs, 1.0 / QMAX) if _layers.is_kind(trt, layer, "SOFTMAX") else {}


def _summed(trt, layer, inputs, outputs, scales):
    """Each of three tensors, a sum and its terms, is at most as large as the other two together."""
    if not _layers.is_kind(trt, layer, "ELEMENTWISE"):
        return {}
    layer.__class__ = trt.IElementWiseLayer
    ends = inputs + outputs
    known = [scales[name] for name in ends if name in scales]
    single = layer.op == trt.ElementWiseOperation.SUM and len(ends) == 3 and len(known) == 2
    return {name: sum(known) for name in ends if name not in scales} if single else {}
