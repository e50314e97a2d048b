"""Strongly typed graphs: every tensor's type is written in the graph, for TensorRT 11 and TensorRT-RTX.

Inputs and outputs stay float32; Casts lead in and out.
"""

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from files import UserError

FLOATS = {"fp32": np.float32, "fp16": np.float16}
HIGHEST = {"fp16": float(np.finfo(np.float16).max)}


def cast(graph, kind):
    """Return the graph with all float tensors of one type.

    kind: fp32 or fp16. Raises UserError for another kind, for a weight beyond FP16's range (named), and for FP16
    around Q/DQ nodes, whose scales are float32 below opset 19.
    """
    if kind not in FLOATS:
        raise UserError(f"a strongly typed graph in {kind} is not supported: one of {', '.join(FLOATS)}")
    if FLOATS[kind] == np.float32:
        return graph
    if any(node.op == "QuantizeLinear" for node in graph.nodes):
        raise UserError(f"high_precision {kind} beside Q/DQ nodes is not supported yet: use fp32")
    halves = {}
    for node in graph.nodes:
        node.inputs = [_half(tensor, FLOATS[kind], halves) for tensor in node.inputs]
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant) and tensor.dtype in (np.float32, None):
            tensor.dtype = FLOATS[kind]
    for value in graph.inputs:
        _lead_in(graph, value, FLOATS[kind])
    for position, value in enumerate(graph.outputs):
        graph.outputs[position] = _lead_out(graph, value)
    return graph.cleanup().toposort()


def _half(tensor, dtype, halves):
    """Return a float32 constant in another type, converted once; every other tensor as it is."""
    if not isinstance(tensor, gs.Constant) or tensor.values.dtype != np.float32:
        return tensor
    if tensor.name not in halves:
        largest = float(np.abs(tensor.values).max(initial=0.0))
        if largest > HIGHEST["fp16"]:
            raise UserError(f"weight {tensor.name} reaches {largest:.3g}, beyond FP16's 65504: keep its node in fp32")
        halves[tensor.name] = gs.Constant(tensor.name, tensor.values.astype(dtype))
    return halves[tensor.name]


def _lead_in(graph, value, dtype):
    readers = list(value.outputs)
    value.dtype = np.float32
    inner = gs.Variable(f"{value.name}_typed", dtype=dtype, shape=value.shape)
    for node in readers:
        node.inputs = [inner if tensor is value else tensor for tensor in node.inputs]
    to = int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    graph.nodes.append(gs.Node("Cast", f"{value.name}/Cast", {"to": to}, [value], [inner]))


def _lead_out(graph, value):
    outer = gs.Variable(value.name, dtype=np.float32, shape=value.shape)
    value.name = f"{value.name}_typed"
    graph.nodes.append(gs.Node("Cast", f"{outer.name}/Cast", {"to": onnx.TensorProto.FLOAT}, [value], [outer]))
    return outer
