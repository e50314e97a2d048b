"""The small edits that surgeon passes are made of: who writes and reads a tensor, and nodes put between the two."""

import numpy as np
import onnx_graphsurgeon as gs

from graph import shapes


def consumer(tensor):
    """Return the only node that reads a tensor, or None."""
    return tensor.outputs[0] if len(tensor.outputs) == 1 else None


def producer(tensor, op):
    """Return the node of kind `op` that writes a tensor, or None."""
    return tensor.inputs[0] if tensor.inputs and tensor.inputs[0].op == op else None


def bypass(node):
    """Let the readers of a node's output read its first input instead."""
    source, replaced = node.inputs[0], node.outputs[0]
    for reader in list(replaced.outputs):
        reads(reader, replaced, source)
    node.outputs.clear()


def reads(node, old, new):
    """Let a node read a tensor in place of another."""
    node.inputs = [new if tensor is old else tensor for tensor in node.inputs]


def is_output(graph, tensor):
    return any(tensor is output for output in graph.outputs)


def free_name(graph, name):
    """Return a name that no node has: `name`, with as many `_` more as it takes."""
    taken = {node.name for node in graph.nodes}
    while name in taken:
        name += "_"
    return name


def append(graph, op, name, inputs, shape, attrs=None):
    """Add a node with one output of float32 and return that; the node gets a name that is free."""
    name = free_name(graph, name)
    output = gs.Variable(f"{name}_output_0", dtype=np.float32, shape=list(shape))
    graph.nodes.append(gs.Node(op, name, attrs or {}, inputs, [output]))
    return output


def reshape(graph, source, shape, name):
    """Add a Reshape of a tensor to a symbolic shape and return its output."""
    name = free_name(graph, name)
    value = gs.Constant(f"{name}_shape", np.array(shapes.target(shape), dtype=np.int64))
    output = append(graph, "Reshape", name, [source, value], shape)
    output.dtype = source.dtype
    return output
