"""The shapes of tensors at two batch sizes, as ONNX infers them, or measured in a run where it leaves one open.

A symbolic shape is a list of ints, and of `batch` or `batch*k` for a dimension that scales with the batch.
"""

from collections.abc import Callable, Sequence

import onnx
import onnx_graphsurgeon as gs

from graph import onnx_io

BATCHES = (2, 3)  # coprime, so that a dimension that scales with the batch differs from one that does not


def at_batches(graph: gs.Graph, batches: Sequence[int] = BATCHES) -> tuple[dict, dict]:
    """Return {tensor name: [shape at each batch]} and {tensor name: dtype} of the input and of what nodes write."""
    model, weights = onnx_io.skeleton(graph)
    found = [_inferred(model, batch) for batch in batches]
    if None in found:
        found = _measured(model, weights, [onnx_io.random_batch(graph, batch) for batch in batches])
    shapes = {name: [described[name][0] for described in found] for name in found[0]}
    return shapes, {name: dtype for name, (_, dtype) in found[0].items()}


def _inferred(model, batch):
    """Return {tensor name: (shape, dtype)} by ONNX's inference, or None where it leaves a shape open."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {value.name: value.type.tensor_type for value in (inferred.input[0], *inferred.value_info)}
    known = types.keys() >= set(_written(model)) and all(map(_is_known, types.values()))
    return {name: _described(each) for name, each in types.items()} if known else None


def _is_known(tensor_type):
    return tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in tensor_type.shape.dim)


def _described(tensor_type):
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor_type.elem_type)
    return [dimension.dim_value for dimension in tensor_type.shape.dim], dtype


def _measured(model, weights, several):
    """Return [{tensor name: (shape, dtype)}] of runs of a skeleton, one for each of several batches of images."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in _written(model))
    session = onnx_io.runner(model)
    runs = (onnx_io.activations(session, images, weights) for images in several)
    return [{name: (list(value.shape), value.dtype) for name, value in run.items()} for run in runs]


def _written(model):
    return [name for node in model.graph.node for name in node.output if name]


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
    shapes, dtypes = at_batches(graph, batches)
    for name, tensor in graph.tensors().items():
        if name in shapes and not isinstance(tensor, gs.Constant):
            tensor.shape, tensor.dtype = shape_of(shapes[name]), dtypes[name]
    return graph


def target(shape: Sequence[int | str]) -> list[int] | None:
    """Return the target of a Reshape to a symbolic shape, or None if more than one dimension is unknown."""
    unknown = sum(isinstance(d, str) for d in shape)
    return None if unknown > 1 else [-1 if isinstance(d, str) else d for d in shape]
