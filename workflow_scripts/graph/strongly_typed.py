"""Strongly typed graphs: every tensor's type is written in the graph, for TensorRT 11 and TensorRT-RTX.

Inputs and outputs stay float32. A node computes in one type, its weights are constants of it; where a tensor goes from
nodes of one type to nodes of another there is one Cast, however many nodes read it.
"""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from core.files import UserError

FLOATS = {"fp32": np.float32, "fp16": np.float16}
HIGHEST = float(np.finfo(np.float16).max)
PAIR = ("QuantizeLinear", "DequantizeLinear")


def cast(graph, kind, kept=()):
    """Return the graph with a float type for every tensor.

    kind: fp32 or fp16; kept: names of nodes that stay in fp32. Q/DQ pairs stay in fp32 too: below opset 19 their
    scales must, and FP16 scales would lose bits; the Casts around them are TensorRT's to fuse.
    Raises UserError for another kind, and for a weight beyond FP16's range (named).
    """
    if kind not in FLOATS:
        raise UserError(f"a strongly typed graph in {kind} is not supported: one of {', '.join(FLOATS)}")
    if FLOATS[kind] == np.float32:
        return graph
    casts, graph = {}, graph.toposort()
    for node in list(graph.nodes):
        wide = node.op in PAIR or node.name in kept
        dtype = np.float32 if wide else FLOATS[kind]
        node.inputs = [_typed(graph, tensor, dtype, casts) for tensor in node.inputs]
        for output in node.outputs:
            if output.dtype in FLOATS.values():  # not the codes of INT8, and no shapes
                output.dtype = dtype
    for position, value in enumerate(graph.outputs):
        graph.outputs[position] = _lead_out(graph, value)
    return graph.cleanup().toposort()


def _typed(graph, tensor, dtype, casts):
    """Return a tensor in a type: a float constant converted, a variable behind a Cast, each made once."""
    if tensor.dtype not in FLOATS.values() or tensor.dtype == dtype:
        return tensor
    key = (tensor.name, dtype)
    if key not in casts:
        constant = isinstance(tensor, gs.Constant)
        casts[key] = _converted(tensor, dtype) if constant else _behind_cast(graph, tensor, dtype)
    return casts[key]


def _converted(tensor, dtype):
    largest = float(np.abs(tensor.values).max(initial=0.0))
    if largest > HIGHEST:
        raise UserError(f"weight {tensor.name} reaches {largest:.3g}, beyond FP16's 65504: keep its node in fp32")
    return gs.Constant(f"{tensor.name}_{np.dtype(dtype).name}", tensor.values.astype(dtype))


def _behind_cast(graph, tensor, dtype):
    name = f"{tensor.name}_{np.dtype(dtype).name}"
    output = gs.Variable(name, dtype=dtype, shape=tensor.shape)
    graph.nodes.append(gs.Node("Cast", f"{name}/Cast", {"to": _element_type(dtype)}, [tensor], [output]))
    return output


def _lead_out(graph, value):
    """Return a graph's output in float32, under its name."""
    if value.dtype == np.float32:
        return value
    outer = gs.Variable(value.name, dtype=np.float32, shape=value.shape)
    value.name = f"{value.name}_typed"
    attributes = {"to": _element_type(np.float32)}
    graph.nodes.append(gs.Node("Cast", f"{outer.name}/Cast", attributes, [value], [outer]))
    return outer


def _element_type(dtype):
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
