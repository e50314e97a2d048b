"""A network on a deep learning accelerator (DLA): one batch, worthwhile subgraphs alone, and the builder's report.

TensorRT by default places every layer on a DLA that can run there, single additions between two GPU layers included,
and loads the subgraphs of most layers, up to 16. Here each layer is asked for, and subgraphs without a convolution
stay on the GPU, as do layers that only move data (docs/dla-placement.md).
"""

from __future__ import annotations

import math
import re
from typing import Any

from core.files import UserError
from dla import partition
from runtimes import _layers

LOADABLES = 16  # at a time, per core
MOVERS = ("SHUFFLE", "SLICE")  # kinds of layer


def fix_batch(network: Any, batch: int) -> None:
    """Set the batch of the network's inputs: a DLA takes no free size."""
    for number in range(network.num_inputs):
        entry = network.get_input(number)
        entry.shape = (batch,) + tuple(entry.shape)[1:]


def place(trt: Any, config: Any, network: Any) -> dict:
    """Place the layers that are not worth loading on the GPU; return {layers, supported, subgraphs: [layer names]}.

    Raises UserError where the DLA can run no convolution of the network.
    """
    layers = _layers.layers_of(network)
    nodes = [_node(trt, config, layer) for layer in layers]
    candidates = partition.candidates([node._replace(supported=node.offered) for node in nodes])
    placed = partition.heaviest([sum(nodes[p].weight for p in positions) for positions in candidates], LOADABLES)
    if not placed:
        raise UserError("the DLA here can take no convolution of this network: leave out precisions with dla: true")
    on_dla = {position for number in placed for position in candidates[number]}
    for position, layer in enumerate(layers):
        if position not in on_dla:
            config.set_device_type(layer, trt.DeviceType.GPU)
    supported = sum(node.supported for node in nodes)
    subgraphs = [[nodes[position].name for position in candidates[number]] for number in placed]
    return {"layers": len(layers), "supported": supported, "subgraphs": subgraphs}


def _node(trt, config, layer):
    supported = bool(config.can_run_on_DLA(layer))
    inputs, outputs = _layers.inputs_of(layer), _layers.outputs_of(layer)
    moves = _layers.is_kind(trt, layer, *MOVERS)
    batch = partition.batch_of(tuple(outputs[0].shape))  # an input may be a constant
    read, written = ([tensor.name for tensor in tensors] for tensors in (inputs, outputs))
    macs = _macs(trt, layer, inputs, outputs) if supported else 0
    return partition.Node(layer.name, read, written, supported, batch, macs, supported and not moves)


def _macs(trt, layer, inputs, outputs):
    """Return the multiplications and additions of a convolution, 1 for another product with weights, 0 for the rest."""
    if _layers.is_kind(trt, layer, "CONVOLUTION"):
        layer.__class__ = trt.IConvolutionLayer  # the network gives all layers as their base class
        volume = math.prod(outputs[0].shape) * math.prod(layer.kernel_size_nd)
        return volume * inputs[0].shape[1] // layer.num_groups
    return int(_layers.is_kind(trt, layer, "FULLY_CONNECTED", "MATRIX_MULTIPLY"))


# The builder's report, from its logger's messages or trtexec's log

NODE = r"\{?ForeignNode\[(.*)\]\}?"
ON_DLA = re.compile(r"\[DlaLayer\] (?:\w+: )?" + NODE)
ON_GPU = re.compile(r"\[GpuLayer\] (?:[A-Z_]+: )?(.*)")
ACCEPTED = re.compile(NODE + r" successfully offloaded to DLA")
COUNTS = re.compile(r"Number of DLA node candidates offloaded\s*:\s*(\d+) out of (\d+)")
FALLBACKS = (
    re.compile(r"Default DLA is enabled but layer (.*) is not supported on DLA, falling back to GPU"),
    re.compile(r"Layer '(.*)' \(\w+\): Unsupported on DLA\. Switching this layer's device type to GPU"),
    re.compile(r"DLA only supports FP16 and Int8 precision type\. Switching (.*) device type to GPU"),
    re.compile(r"Validation failed for DLA layer: (.*)\. Switching to GPU fallback"),
)
SPLIT = re.compile(r"Splitting DLA subgraph at: (.*) because DLA validation failed for this layer")
ABOUT_DLA = re.compile(r"DLA|DlaLayer|GpuLayer")


def is_about_dla(text: str) -> bool:
    """Return whether a message may concern the DLA."""
    return ABOUT_DLA.search(text) is not None


def read_log(texts: list[str]) -> dict | None:
    """Return the placement that a builder's messages report, or None where none is about the DLA.

    {subgraphs: [[first layer, last layer]], gpu: [layers], fallback: {layer: reason or None}, split: [layers],
    offloaded, candidates}: the last two are None where the log is not verbose.
    """
    lines = [line for text in texts for line in text.splitlines() if is_about_dla(line)]
    on_dla = _matches(ON_DLA, lines) or _matches(ACCEPTED, lines)
    counts = [match.groups() for match in map(COUNTS.search, lines) if match]
    offloaded, candidates = map(int, counts[-1]) if counts else (None, None)
    fallback: dict[str, str | None] = {name: None for pattern in FALLBACKS for name in _matches(pattern, lines)}
    for line in lines:
        name, _, reason = re.sub(r"^.*?(?:\[TRT\]|Error\[\d+\]:) (?:Error\[\d+\]: )?", "", line).partition(": ")
        if reason and fallback.get(name, reason) is None:
            fallback[name] = reason.strip()
    if not (on_dla or fallback or counts):
        return None
    return {
        "subgraphs": [_ends(name) for name in on_dla],
        "gpu": _matches(ON_GPU, lines),
        "fallback": fallback,
        "split": _matches(SPLIT, lines),
        "offloaded": offloaded,
        "candidates": candidates,
    }


def _matches(pattern, lines):
    """Return the first groups of a pattern's matches, each once, in order."""
    return list(dict.fromkeys(match.group(1) for match in map(pattern.search, lines) if match))


def _ends(name):
    first, _, last = name.partition("...")
    return [first, last or first]
