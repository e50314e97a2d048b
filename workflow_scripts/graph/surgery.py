"""The small edits that passes are made of: find the writer and reader of a tensor, rewire them, add nodes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graph import shapes


def consumer(tensor: gs.Tensor, op: str | None = None) -> Any:
    """Return the only node that reads a tensor if its operator is `op` (or there is no `op`), else None."""
    node = tensor.outputs[0] if len(tensor.outputs) == 1 else None
    return node if op is None or (node is not None and node.op == op) else None


def producer(tensor: gs.Tensor, op: str) -> Any:
    """Return the node that writes a tensor if its operator is `op`, else None."""
    return tensor.inputs[0] if tensor.inputs and tensor.inputs[0].op == op else None


def added_bias(add: gs.Node | None) -> gs.Constant | None:
    """Return the constant [C] that an Add adds, or None; add may be None as well."""
    inputs = add.inputs if add is not None else ()
    return next((t for t in inputs if isinstance(t, gs.Constant) and len(t.shape) == 1), None)


def gates_hardswish(node: gs.Node) -> bool:
    """Return whether a HardSigmoid is the gate of a Hardswish: clip(x / 6 + 1 / 2, 0, 1)."""
    return abs(node.attrs.get("alpha", 0.2) - 1 / 6) < 1e-6 and node.attrs.get("beta", 0.5) == 0.5


def reconnect(node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    """Make a node read `new` wherever it reads `old`."""
    node.inputs = [new if tensor is old else tensor for tensor in node.inputs]


def redirect(old: gs.Tensor, new: gs.Tensor) -> None:
    """Make every node that reads `old` read `new`."""
    for reader in list(old.outputs):
        reconnect(reader, old, new)


def bypass(node: gs.Node) -> None:
    """Redirect the readers of a node's output to its first input."""
    redirect(node.outputs[0], node.inputs[0])
    node.outputs.clear()


def supersede(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Put `new` in place of `old`, which loses its writer; a graph output keeps its name and type."""
    redirect(old, new)
    old.inputs.clear()
    if is_output(graph, old):
        new.name, old.name, new.dtype = old.name, new.name, old.dtype
        graph.outputs = [new if tensor is old else tensor for tensor in graph.outputs]


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Return whether a tensor is one of the graph's outputs."""
    return any(tensor is output for output in graph.outputs)


def free_name(graph: gs.Graph, name: str) -> str:
    """Return `name`, with as many `_` appended as make it unique among the nodes."""
    used = {node.name for node in graph.nodes}
    while name in used:
        name += "_"
    return name


def append(
    graph: gs.Graph, op: str, name: str, inputs: Sequence[gs.Tensor], shape: Sequence, attrs: dict | None = None
) -> gs.Variable:
    """Add a node with a unique name and one float32 output, and return the output."""
    name = free_name(graph, name)
    output = gs.Variable(f"{name}_output_0", dtype=np.float32, shape=list(shape))
    graph.nodes.append(gs.Node(op, name, attrs or {}, inputs, [output]))
    return output


def reshape(graph: gs.Graph, source: gs.Tensor, shape: Sequence, name: str) -> gs.Variable:
    """Add a Reshape of a tensor to a symbolic shape and return its output."""
    name = free_name(graph, name)
    target = gs.Constant(f"{name}_shape", np.array(shapes.target(shape), dtype=np.int64))
    output = append(graph, "Reshape", name, [source, target], shape)
    output.dtype = source.dtype
    return output
