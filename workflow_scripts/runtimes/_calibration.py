"""TensorRT's calibration cache: a line that names the version, then `tensor: scale`, the float32 in hexadecimal."""

import re
import struct
from pathlib import Path

import numpy as np

from core.files import UserError

HEADER = re.compile(r"TRT-\d+-EntropyCalibration2")
QMAX = 127  # a scale is the largest magnitude over this
SMALLEST = 1e-6  # magnitude of a constant that is zero everywhere, so that its scale is a number
MOVING = ("SHUFFLE", "IDENTITY", "SLICE", "CONCATENATION", "GATHER", "CAST", "SQUEEZE", "UNSQUEEZE")


def header(version):
    """Return the first line of a cache for a TensorRT version such as 8.5.3.1."""
    major, minor, patch = ([int(part) for part in re.findall(r"\d+", version)] + [0, 0])[:3]
    number = major * 10000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-EntropyCalibration2"


def text(scales, version):
    """Return the cache of {tensor name: scale} for a TensorRT version: equal text for equal scales."""
    lines = [f"{name}: {hexadecimal(scale)}" for name, scale in sorted(scales.items())]
    return "\n".join([header(version), *lines]) + "\n"


def hexadecimal(scale):
    """Return the big-endian hexadecimal digits of a scale as float32: 1.0 is 3f800000."""
    return struct.pack(">f", scale).hex()


def read(path):
    """Return {tensor name: scale} of a cache file, of whatever version; raise UserError where it is none."""
    try:
        first, *lines = Path(path).read_text(encoding="utf-8").splitlines() or [""]
        pairs = [line.rsplit(": ", 1) for line in lines if line]
        scales = {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, digits in pairs}
    except (ValueError, struct.error):
        first = ""
    if not HEADER.fullmatch(first):
        raise UserError(f"{path} is not a TensorRT calibration cache: delete it and run again")
    return scales


# Tensors that a parser adds: a Gemm becomes two constants, a broadcast, a product and a sum, a Softmax two layers.
# TensorRT computes no layer in INT8 that reads or writes a tensor without a scale.


def complete(trt, network, scales):
    """Return (scales with those that follow from them for a network's other tensors, sorted names of the rest).

    scales: {tensor name: scale}, which stay. A later kind of rule is asked only where the earlier ones know no more.
    """
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    ends = [(layer, *_floats(trt, layer)) for layer in layers]
    found = dict(scales)
    while any(_learn(rule, trt, ends, found) for rule in (_constant, _moved, _softmax, _summed)):
        pass
    names = {name for _, inputs, outputs in ends for name in inputs + outputs}
    return found, sorted(names - found.keys())


def _floats(trt, layer):
    """Return the names of a layer's inputs and of its outputs that are numbers, not shapes."""
    inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
    outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
    kinds = (trt.float32, trt.float16)
    return [[t.name for t in tensors if t is not None and t.dtype in kinds] for tensors in (inputs, outputs)]


def _learn(rule, trt, ends, found):
    """Add what a rule says of tensors that have no scale yet; return whether it said anything."""
    before = len(found)
    for layer, inputs, outputs in ends:
        if not found.keys() >= {*inputs, *outputs}:
            for name, scale in rule(trt, layer, inputs, outputs, found).items():
                found.setdefault(name, scale)
    return len(found) > before


def _is(trt, layer, *kinds):
    return any(layer.type == getattr(trt.LayerType, kind, None) for kind in kinds)


def _constant(trt, layer, inputs, outputs, found):
    """A constant has its own largest magnitude."""
    if not _is(trt, layer, "CONSTANT") or not outputs:
        return {}
    layer.__class__ = trt.IConstantLayer  # the network gives all layers as their base class
    magnitude = float(np.abs(np.asarray(layer.weights, dtype=np.float32)).max(initial=0))
    return {outputs[0]: max(magnitude, SMALLEST) / QMAX}


def _moved(trt, layer, inputs, outputs, found):
    """What only moves or joins numbers has the largest scale of its inputs; inputs, failing that, their output's."""
    if not _is(trt, layer, *MOVING):
        return {}
    known = [found[name] for name in inputs if name in found]
    if known and len(known) == len(inputs):
        return dict.fromkeys(outputs, max(known))
    behind = [found[name] for name in outputs if name in found]
    return dict.fromkeys(inputs, max(behind)) if behind else {}


def _softmax(trt, layer, inputs, outputs, found):
    return dict.fromkeys(outputs, 1.0 / QMAX) if _is(trt, layer, "SOFTMAX") else {}


def _summed(trt, layer, inputs, outputs, found):
    """Each of three tensors, a sum and what is added, is at most as large as the other two together."""
    if not _is(trt, layer, "ELEMENTWISE"):
        return {}
    layer.__class__ = trt.IElementWiseLayer
    ends = inputs + outputs
    known = [found[name] for name in ends if name in found]
    single = layer.op == trt.ElementWiseOperation.SUM and len(ends) == 3 and len(known) == 2
    return {name: sum(known) for name in ends if name not in found} if single else {}
