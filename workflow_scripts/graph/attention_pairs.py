"""Q/DQ pairs around attention for OpenVINO: its inputs and outputs stay in INT8, in few layers."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graph import qdq, shapes, surgery

WIDE = 64  # bytes of a row that OpenVINO transposes as a whole; it moves shorter rows of INT8 byte by byte


def merge_pairs(graph: gs.Graph) -> gs.Graph:
    """Put one Q/DQ pair on what a linear layer hands to a Split, in place of one behind each part.

    A part keeps its codes: the linear layer scales its channels from its own range to that of the last part, and the
    product that reads it scales back. Parts stay as they are where one has no pair, or another zero point.
    """
    shapes.annotate(graph)
    factors: dict[str, np.ndarray] = {}
    for split in [node for node in graph.nodes if node.op == "Split"]:
        product, add = _linear(split)
        pairs = [_pair_behind(part) for part in split.outputs]
        if product is not None and all(pairs) and len({_zero(pair) for pair in pairs}) == 1:
            _merge(graph, split, product, add, pairs, factors)
    for node in [node for node in graph.nodes if node.name in factors]:
        _scale_back(graph, node, factors[node.name])
    return graph.cleanup().toposort()


def _linear(split):
    """Return (MatMul, Add) of the linear layer whose heads a Split cuts along their channels, or (None, None)."""
    source = split.inputs[0]
    swapped = surgery.producer(source, "Transpose")
    heads = surgery.producer(swapped.inputs[0] if swapped else source, "Reshape")
    add = surgery.producer(heads.inputs[0], "Add") if heads else None
    bias, last = surgery.added_bias(add), len(source.shape) - 1
    along = split.attrs["axis"] in (-1, last) and (swapped is None or swapped.attrs["perm"][-1] == last)
    if add is None or bias is None or not along:
        return None, None
    return surgery.producer(next(t for t in add.inputs if t is not bias), "MatMul"), add


def _pair_behind(part):
    """Return (Q, DQ) behind a part, which may be transposed first, if one product alone reads it; else None."""
    swapped = surgery.consumer(part, "Transpose")
    quantize = surgery.consumer(swapped.outputs[0] if swapped else part, "QuantizeLinear")
    dequantize = surgery.consumer(quantize.outputs[0], "DequantizeLinear") if quantize else None
    read = dequantize is not None and surgery.consumer(dequantize.outputs[0], "MatMul") is not None
    return (quantize, dequantize) if read else None


def _zero(pair):
    zero = pair[0].inputs[2]
    return str(zero.dtype), int(zero.values)


def _merge(graph, split, product, add, pairs, factors):
    """Move the pairs of a Split's parts before it; factors: {product of attention: what scales it back}, added to."""
    scale, zero = pairs[-1][0].inputs[1:]
    ratios = [quantize.inputs[1].values / scale.values for quantize, _ in pairs]
    head = np.repeat(1 / np.array(ratios), [part.shape[-1] for part in split.outputs]).astype(np.float32)
    bias: Any = surgery.added_bias(add)
    channels = np.tile(head, bias.values.size // head.size)
    surgery.reconnect(product, product.inputs[1], _scaled(graph, product.inputs[1], channels))
    surgery.reconnect(add, bias, gs.Constant(f"{bias.name}_scaled", bias.values * channels))
    for (quantize, dequantize), ratio in zip(pairs, ratios):
        reader = surgery.consumer(dequantize.outputs[0])
        factors[reader.name] = factors.get(reader.name, np.float32(1)) * ratio
        surgery.redirect(dequantize.outputs[0], quantize.inputs[0])
        dequantize.outputs.clear()
    tokens = add.outputs[0]
    readers = list(tokens.outputs)
    values = qdq.add_pair(graph, tokens, [scale, zero], {}, f"{tokens.name}.q")
    for reader in readers:
        surgery.reconnect(reader, tokens, values)


def _scaled(graph, weight, channels):
    """Return a weight [inputs, outputs], a constant or one behind a Q/DQ pair, with each column scaled."""
    if isinstance(weight, gs.Constant):
        return gs.Constant(f"{weight.name}_scaled", weight.values * channels)
    quantize = surgery.producer(surgery.producer(weight, "DequantizeLinear").inputs[0], "QuantizeLinear")
    source, scale, zero = quantize.inputs
    scale = gs.Constant(f"{scale.name}_scaled", scale.values * channels)
    scaled = _scaled(graph, source, channels)
    return qdq.add_pair(graph, scaled, [scale, zero], {"axis": 1}, f"{scaled.name}.q")


def _scale_back(graph, product, factor):
    """Multiply what a product of attention computes by a factor."""
    result, raw = product.outputs[0], gs.Variable(f"{product.name}_raw", np.float32, product.outputs[0].shape)
    product.outputs = [raw]
    factor = gs.Constant(f"{product.name}_factor", np.array(factor, dtype=np.float32))
    name = surgery.free_name(graph, f"{qdq.module_of(product)}/Mul")
    graph.nodes.append(gs.Node("Mul", name, {}, [raw, factor], [result]))


def lift_hardswish(graph: gs.Graph) -> gs.Graph:
    """Move a Hardswish with a Q/DQ pair before the Transpose that joins heads whose channels are a multiple of WIDE.

    OpenVINO then computes both inside attention, and transposes INT8.
    """
    shapes.annotate(graph)
    for node in [node for node in graph.nodes if node.op == "HardSwish"]:
        joined = surgery.producer(node.inputs[0], "Reshape")
        transpose = surgery.producer(joined.inputs[0], "Transpose") if joined else None
        quantize = surgery.consumer(node.outputs[0], "QuantizeLinear")
        if transpose is None or quantize is None or surgery.consumer(joined.outputs[0]) is not node:
            continue
        heads, result = transpose.inputs[0], quantize.o().outputs[0]
        if heads.shape[-1] % WIDE == 0:
            surgery.redirect(result, joined.outputs[0])
            node.inputs, transpose.inputs = [heads], [result]
            for each in (node, quantize, quantize.o()):
                each.outputs[0].shape = heads.shape
    return graph.cleanup().toposort()
