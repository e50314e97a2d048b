"""Linear layers whose output is split, as queries, keys and values are: one linear layer for each part.

The parts then need no Split, which copies, and each has a Q/DQ pair and a scale of its own.
"""

import numpy as np
import onnx_graphsurgeon as gs

from graph import qdq, shapes, surgery


def split_linear(graph: gs.Graph) -> gs.Graph:
    """Replace a linear layer, a Reshape to heads and a Split of each head by one linear layer for each part.

    Weights may be behind a Q/DQ pair, which then is split as well.
    """
    shapes.annotate(graph)
    for split in [node for node in graph.nodes if node.op == "Split"]:
        heads = surgery.producer(split.inputs[0], "Reshape")
        product, bias = _linear(heads.inputs[0]) if heads is not None else (None, None)
        if product is not None and split.attrs["axis"] in (-1, len(split.inputs[0].shape) - 1):
            _split(graph, split, product, bias)
    return graph.cleanup().toposort()


def _linear(tokens):
    """Return (product, bias) of the linear layer that writes a tensor, or (None, None)."""
    add = surgery.producer(tokens, "Add")
    bias = surgery.added_bias(add)
    if add is None or bias is None:
        return None, None
    return surgery.producer(next(t for t in add.inputs if t is not bias), "MatMul"), bias


def _split(graph, split, product, bias):
    shape, first = split.inputs[0].shape, 0
    channels = np.arange(bias.values.size).reshape(-1, shape[-1])  # [heads, channels of a head]
    for result in split.outputs:
        chosen = channels[:, first : first + result.shape[-1]].flatten()
        first += result.shape[-1]
        tokens = [*product.outputs[0].shape[:-1], chosen.size]
        name = f"{qdq.module_of(product)}/MatMul"
        weight = _columns(graph, product.inputs[1], chosen)
        output = surgery.append(graph, "MatMul", name, [product.inputs[0], weight], tokens)
        part = gs.Constant(f"{output.name}_bias", bias.values[chosen])
        output = surgery.append(graph, "Add", name.replace("/MatMul", "/Add"), [output, part], tokens)
        surgery.redirect(result, surgery.reshape(graph, output, result.shape, f"{output.name}_heads"))
    split.outputs.clear()


def _columns(graph, weight, chosen):
    """Return some columns of a weight [inputs, outputs], a constant or one behind a Q/DQ pair."""
    if isinstance(weight, gs.Constant):
        return gs.Constant(f"{weight.name}_{chosen[0]}", np.ascontiguousarray(weight.values[:, chosen]))
    after = surgery.producer(weight, "DequantizeLinear")
    before = surgery.producer(after.inputs[0], "QuantizeLinear")
    source = _columns(graph, before.inputs[0], chosen)
    scale, zero = (gs.Constant(f"{t.name}_{chosen[0]}", t.values[chosen]) for t in before.inputs[1:])
    return qdq.add_pair(graph, source, [scale, zero], {"axis": 1}, source.name)
