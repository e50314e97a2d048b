"""Strongly typed graphs for TensorRT 11 and TensorRT-RTX: the graph gives the type of every tensor.

Inputs and outputs stay float32. A node computes in one type, and its weights are constants of that type. A tensor that
passes from nodes of one type to nodes of another has one Cast, however many nodes read it.
"""

from collections.abc import Collection

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from core.files import UserError
from graph.qdq import PAIR

FLOATS = {"fp32": np.float32, "fp16": np.float16}
HIGHEST = float(np.finfo(np.float16).max)


def cast(graph: gs.Graph, kind: str, fp32_nodes: Collection[str] = ()) -> gs.Graph:
    """Return the graph with a float type for every tensor.

    kind: fp32 or fp16; fp32_nodes: names of nodes that stay in fp32. Q/DQ pairs stay in fp32 as well: below opset 19
    their scales must be fp32, and fp16 scales lose bits. TensorRT fuses the Casts around them.
    Raises UserError for another kind, and for a weight beyond FP16's range (named).
    """
    if kind not in FLOATS:
        raise UserError(f"a strongly typed graph in {kind} is not supported: one of {', '.join(FLOATS)}")
    if FLOATS[kind] == np.float32:
        return graph
    casts, graph = {}, graph.toposort()
    for node in list(graph.nodes):
        dtype = np.float32 if node.op in PAIR or node.name in fp32_nodes else FLOATS[kind]
        node.inputs = [_in_type(graph, tensor, dtype, casts) for tensor in node.inputs]
        for output in node.outputs:
            if output.dtype in FLOATS.values():  # neither INT8 codes nor shapes
                output.dtype = dtype
    graph.outputs = [_float32_output(graph, value) for value in graph.outputs]
    return graph.cleanup().toposort()


def _in_type(graph, tensor, dtype, casts):
    """Return a tensor in a type: a constant is converted, a variable gets a Cast; each is made once."""
    if tensor.dtype not in FLOATS.values() or tensor.dtype == dtype:
        return tensor
    key, name = (tensor.name, dtype), f"{tensor.name}_{np.dtype(dtype).name}"
    if key not in casts:
        constant = isinstance(tensor, gs.Constant)
        casts[key] = _converted(tensor, dtype, name) if constant else _append_cast(graph, tensor, dtype, name)
    return casts[key]


def _converted(tensor, dtype, name):
    largest = float(np.abs(tensor.values).max(initial=0.0))
    if largest > HIGHEST:
        raise UserError(f"weight {tensor.name} reaches {largest:.3g}, beyond FP16's 65504: keep its node in fp32")
    return gs.Constant(name, tensor.values.astype(dtype))


def _append_cast(graph, tensor, dtype, name):
    output = gs.Variable(name, dtype=dtype, shape=tensor.shape)
    attributes = {"to": int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))}
    graph.nodes.append(gs.Node("Cast", f"{name}/Cast", attributes, [tensor], [output]))
    return output


def _float32_output(graph, value):
    """Return a graph output in float32, under its own name."""
    if value.dtype == np.float32:
        return value
    name, value.name = value.name, f"{value.name}_typed"
    return _append_cast(graph, value, np.float32, name)
