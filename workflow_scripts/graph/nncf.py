"""Q/DQ pairs by NNCF, OpenVINO's own quantizer, on a clean graph: it chooses their places and their ranges.

Activations have one range a tensor, with a zero point; weights have one for each output channel. NNCF corrects biases
as well. It loads OpenVINO, which shares no process with torch: no module of quantization/ may be loaded here.
"""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from core.files import UserError
from graph import onnx_io, qdq


def quantize(
    graph: gs.Graph, count: int, image: Callable[[int], np.ndarray], model_type: str | None = None
) -> gs.Graph:
    """Return a clean graph with NNCF's pairs; raise UserError where NNCF is not installed.

    image: function of a number from 0 to `count` - 1, the image's, that returns float32 [1, 3, H, W]; model_type:
    transformer, or None for NNCF's default scheme.
    """
    nncf = _library()
    images = nncf.Dataset(range(count), lambda number: {onnx_io.INPUT: image(number)})
    options = {"subset_size": count, "model_type": model_type and nncf.ModelType(model_type)}
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return _described(onnx_io.from_model(nncf.quantize(onnx_io.to_model(graph), images, **options)))


def _library():
    """Return NNCF, which is to send no statistics of its use and to leave torch alone."""
    os.environ["NNCF_CI"] = "1"
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # it would ask torch what an ONNX graph is
    try:
        import nncf
    except ImportError as error:
        remedy = "install it as envs/host.txt pins it, or take out `backend`"
        raise UserError(f"calibration.backend nncf is not installed here ({error}): {remedy}") from None
    nncf.set_log_level(logging.ERROR)
    return nncf


def _described(graph):
    """Give the outputs of pairs their shapes and types, which NNCF leaves out."""
    for node in graph.toposort().nodes:
        if node.op in qdq.PAIR:
            source, result = node.inputs[0], node.outputs[0]
            result.shape = source.shape
            result.dtype = node.inputs[2].dtype if node.op == qdq.PAIR[0] else np.dtype(np.float32)
    return graph
