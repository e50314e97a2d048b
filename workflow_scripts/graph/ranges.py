"""Ranges of a graph's activations, measured by running the graph on images."""

from collections.abc import Iterable

import numpy as np
import onnx_graphsurgeon as gs

from core.files import UserError
from graph import onnx_io


def magnitudes(graph: gs.Graph, batches: Iterable[np.ndarray], threads: int = 0) -> dict[str, float]:
    """Return {tensor name: largest |x|} of the float32 activations of a graph, its input included.

    batches: float32 [N, 3, H, W] each; N is small, because all activations of a batch are in memory together.
    Raises UserError naming an activation that is not finite.
    """
    session, largest = onnx_io.observer(graph, threads), {}
    for batch in batches:
        for name, value in onnx_io.activations(session, batch).items():
            if value.dtype == np.float32:
                largest[name] = np.maximum(largest.get(name, 0), np.abs(value).max())  # NaN stays NaN
    for name, value in largest.items():
        if not np.isfinite(value):
            raise UserError(f"calibration: {name} reaches {value}; check the checkpoint and the images")
    return {name: float(value) for name, value in largest.items()}
