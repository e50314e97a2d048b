"""Q/DQ pairs by NNCF, OpenVINO's own quantizer, on a clean graph: it chooses their places and their ranges.

Activations have one range a tensor, with a zero point; weights have one for each output channel. NNCF corrects biases
as well. It loads OpenVINO, which shares no process with torch.
"""

import contextlib
import io
import logging
import os
import sys

import numpy as np
import onnx_graphsurgeon as gs

from core.files import UserError
from data import preprocess
from graph import onnx_io, qdq


def quantize(graph: gs.Graph, pixels: np.ndarray, row: dict, model_type: str | None = None) -> gs.Graph:
    """Return a clean graph with NNCF's pairs; raise UserError where NNCF is not installed or finds nothing to do.

    pixels: uint8 [N, H, W, 3], all of which are looked at, one by one; row: of `models` (mean, std); model_type:
    transformer, or None for NNCF's default scheme.
    """
    nncf = _library()

    def normalized(at):
        return {onnx_io.INPUT: preprocess.normalize(pixels[at : at + 1], row["mean"], row["std"])}

    options = {"subset_size": len(pixels), "model_type": model_type and nncf.ModelType(model_type)}
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        made = nncf.quantize(onnx_io.to_model(graph), nncf.Dataset(range(len(pixels)), normalized), **options)
    return _described(onnx_io.from_model(made))


def _library():
    """Return NNCF, which is to send no statistics of its use and to leave torch alone."""
    os.environ["NNCF_CI"] = "1"
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # it would ask torch what an ONNX graph is
    try:
        import nncf
    except ImportError as error:
        raise UserError(
            f"calibration.backend nncf is not installed here ({error}): install it as envs/host.txt pins it, or take "
            "out `backend`"
        ) from None
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
