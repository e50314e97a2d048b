"""A network on a deep learning accelerator: one batch, only subgraphs that are worth loading, and what became of them.

TensorRT by itself gives a DLA every layer that one can take, single additions between two layers of the GPU included,
and loads the subgraphs of most layers, up to 16. Here the layers that a DLA can take are asked for one by one, and
those of subgraphs without a convolution are kept on the GPU, and so is what only moves data (docs/dla.md).
"""

import re

from core.files import UserError
from dla import partition
from runtimes import _layers

LOADABLES = 16  # at a time, per core
MOVERS = ("SHUFFLE", "SLICE")  # kinds of layer


def fix_batch(network, batch):
    """Give the network's inputs their one batch: a DLA takes no free size."""
    for number in range(network.num_inputs):
        entry = network.get_input(number)
        entry.shape = (batch,) + tuple(entry.shape)[1:]


def place(trt, config, network):
    """Keep on the GPU what is not worth loading; return {layers, supported, subgraphs: [names of their layers]}.

    Raises UserError where the DLA can take no convolution of the network at all.
    """
    layers = _layers.layers_of(network)
    nodes = [_node(trt, config, layer) for layer in layers]
    found = partition.candidates([node._replace(supported=node.offered) for node in nodes])
    placed = partition.worthwhile(nodes, found, LOADABLES)
    if not placed:
        raise UserError("the DLA here can take no convolution of this network: leave out precisions with dla: true")
    on_dla = {position for number in placed for position in found[number]}
    for position, layer in enumerate(layers):
        if position not in on_dla:
            config.set_device_type(layer, trt.DeviceType.GPU)
    supported = sum(node.supported for node in nodes)
    subgraphs = [[nodes[position].name for position in found[number]] for number in placed]
    return {"layers": len(layers), "supported": supported, "subgraphs": subgraphs}


def _node(trt, config, layer):
    supported = bool(config.can_run_on_DLA(layer))
    inputs, outputs = _layers.inputs_of(layer), _layers.outputs_of(layer)
    moves = any(layer.type == getattr(trt.LayerType, kind, None) for kind in MOVERS)
    batch = _batch(tuple(outputs[0].shape))  # of an input it may be that of a constant
    names = ([tensor.name for tensor in tensors] for tensors in (inputs, outputs))
    macs = _macs(trt, layer, inputs, outputs) if supported else 0
    return partition.Node(layer.name, *names, supported, batch, macs, supported and not moves)


def _batch(shape):
    """Return the product of all dimensions but the last three; of [N, C] the first."""
    result = 1
    for size in shape[:1] if len(shape) == 2 else shape[:-3]:
        result *= size
    return result


def _macs(trt, layer, inputs, outputs):
    """Return the multiplications and additions of a convolution, 1 for another product with weights, 0 for the rest."""
    if layer.type == getattr(trt.LayerType, "CONVOLUTION", None):
        layer.__class__ = trt.IConvolutionLayer  # the network gives all layers as their base class
        volume = _product(outputs[0].shape) * _product(layer.kernel_size_nd)
        return volume * inputs[0].shape[1] // layer.num_groups
    kinds = ("FULLY_CONNECTED", "MATRIX_MULTIPLY")
    return int(any(layer.type == getattr(trt.LayerType, kind, None) for kind in kinds))


def _product(numbers):
    result = 1
    for number in numbers:
        result *= number
    return result


# What the builder says of it, as messages of its logger or as lines of trtexec's log

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
TOLD = re.compile(r"DLA|DlaLayer|GpuLayer")


def tells(text):
    """Return whether a message may say something of the DLA."""
    return TOLD.search(text) is not None


def built(texts):
    """Return what a builder's messages say, or None where they say nothing of the DLA.

    {subgraphs: [[first layer, last layer]], gpu: [layers], fallback: {layer: reason or None}, split: [layers],
    offloaded, candidates}: the last two are None where the log is not verbose.
    """
    lines = [line for text in texts for line in text.splitlines() if tells(line)]
    on_dla = _found(ON_DLA, lines) or _found(ACCEPTED, lines)
    counts = [match.groups() for match in map(COUNTS.search, lines) if match]
    offloaded, candidates = map(int, counts[-1]) if counts else (None, None)
    fallback = {name: None for pattern in FALLBACKS for name in _found(pattern, lines)}
    for line in lines:
        name, _, reason = re.sub(r"^.*?(?:\[TRT\]|Error\[\d+\]:) (?:Error\[\d+\]: )?", "", line).partition(": ")
        if reason and fallback.get(name, reason) is None:
            fallback[name] = reason.strip()
    if not (on_dla or fallback or counts):
        return None
    return {
        "subgraphs": [_ends(name) for name in on_dla],
        "gpu": _found(ON_GPU, lines),
        "fallback": fallback,
        "split": _found(SPLIT, lines),
        "offloaded": offloaded,
        "candidates": candidates,
    }


def _found(pattern, lines):
    """Return the first groups of a pattern's matches, each once, in order."""
    return list(dict.fromkeys(match.group(1) for match in map(pattern.search, lines) if match))


def _ends(name):
    first, _, last = name.partition("...")
    return [first, last or first]
