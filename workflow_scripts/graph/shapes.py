"""The shapes that tensors really have, found by running the graph at two batch sizes."""

import onnx_graphsurgeon as gs

from graph import onnx_io

BATCHES = (2, 3)  # coprime: what scales with the batch is told from what does not


def measured(graph, batches=BATCHES):
    """Return {tensor name: [shape at each batch]} and {tensor name: dtype}.

    One run of ONNX Runtime for each batch, with every tensor as an output.
    """
    session = onnx_io.observer(graph)
    fetched = [o.name for o in session.get_outputs()]
    shapes, dtypes = {}, {}
    for batch in batches:
        feed = {onnx_io.INPUT: onnx_io.random_batch(graph, batch)}
        for name, value in [*feed.items(), *zip(fetched, session.run(None, feed))]:
            shapes.setdefault(name, []).append(list(value.shape))
            dtypes[name] = value.dtype
    return shapes, dtypes


def symbolic(pair):
    """Return one shape for both batches: an int where they agree, `batch*k` where a dimension scales with it."""
    small, large = pair
    return [a if a == b else _scaled(a) for a, b in zip(small, large)]


def _scaled(dimension):
    factor = dimension // BATCHES[0]
    return "batch" if factor == 1 else f"batch*{factor}"


def annotate(graph):
    """Write the measured shape and type into every variable of the graph."""
    shapes, dtypes = measured(graph)
    for name, tensor in graph.tensors().items():
        if name in shapes and not isinstance(tensor, gs.Constant):
            tensor.shape, tensor.dtype = symbolic(shapes[name]), dtypes[name]
    return graph


def fix(graph, batch):
    """Write the shapes and types of one batch size into every variable of the graph, which may allow no other."""
    found, dtypes = measured(graph, [batch])
    for name, tensor in graph.tensors().items():
        if name in found and not isinstance(tensor, gs.Constant):
            tensor.shape, tensor.dtype = found[name][0], dtypes[name]
    return graph


def target(shape):
    """Return the value of a Reshape to a symbolic shape, -1 for its one unknown; None where more are unknown."""
    unknown = [d for d in shape if isinstance(d, str)]
    return None if len(unknown) > 1 else [-1 if isinstance(d, str) else d for d in shape]
