"""The actual shapes of tensors, measured by running the graph at two batch sizes.

A symbolic shape is a list of ints, and of `batch` or `batch*k` for a dimension that scales with the batch.
"""

from collections.abc import Callable, Sequence

import onnx_graphsurgeon as gs

from graph import onnx_io

BATCHES = (2, 3)  # coprime, so that a dimension that scales with the batch differs from one that does not


def measured(graph: gs.Graph, batches: Sequence[int] = BATCHES) -> tuple[dict, dict]:
    """Return {tensor name: [shape at each batch]} and {tensor name: dtype}, from a run of the graph at each batch."""
    session, shapes, dtypes = onnx_io.observer(graph), {}, {}
    for batch in batches:
        for name, value in onnx_io.activations(session, onnx_io.random_batch(graph, batch)).items():
            shapes.setdefault(name, []).append(list(value.shape))
            dtypes[name] = value.dtype
    return shapes, dtypes


def symbolic(pair: Sequence[list[int]]) -> list[int | str]:
    """Return the symbolic shape of the shapes at the two BATCHES."""
    return [small if small == large else _scaled(small // BATCHES[0]) for small, large in zip(*pair)]


def product(dimensions: Sequence[int | str]) -> int | str:
    """Return the symbolic product of dimensions of which at most one depends on the batch."""
    factor, scaled = 1, False
    for dimension in dimensions:
        if isinstance(dimension, str):
            scaled, dimension = True, int((dimension.split("*") + ["1"])[1])
        factor *= dimension
    return _scaled(factor) if scaled else factor


def _scaled(factor):
    return "batch" if factor == 1 else f"batch*{factor}"


def annotate(graph: gs.Graph) -> gs.Graph:
    """Write the symbolic shape and the type of every variable into the graph, in place."""
    return _write(graph, BATCHES, symbolic)


def fix(graph: gs.Graph, batch: int) -> gs.Graph:
    """Write the shapes and types at one batch size into the graph, in place; it may allow no other batch."""
    return _write(graph, [batch], lambda shapes: shapes[0])


def _write(graph: gs.Graph, batches: Sequence[int], shape_of: Callable) -> gs.Graph:
    shapes, dtypes = measured(graph, batches)
    for name, tensor in graph.tensors().items():
        if name in shapes and not isinstance(tensor, gs.Constant):
            tensor.shape, tensor.dtype = shape_of(shapes[name]), dtypes[name]
    return graph


def target(shape: Sequence[int | str]) -> list[int] | None:
    """Return the target of a Reshape to a symbolic shape, or None if more than one dimension is unknown."""
    unknown = sum(isinstance(d, str) for d in shape)
    return None if unknown > 1 else [-1 if isinstance(d, str) else d for d in shape]
