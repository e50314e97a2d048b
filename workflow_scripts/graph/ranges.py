"""The largest magnitude of every activation of a graph over images, found by running it."""

import numpy as np

from core.files import UserError
from graph import onnx_io


def magnitudes(graph, batches, threads=0):
    """Return {tensor name: largest |x|} of all float32 activations of a graph, its input included.

    graph: graphsurgeon graph; batches: float32 [N, 3, H, W] each, small ones, because all activations of a batch are
    in memory together. Raises UserError naming a tensor that is not finite.
    """
    session, largest = onnx_io.observer(graph, threads), {}
    fetched = [output.name for output in session.get_outputs()]
    for batch in batches:
        values = zip([onnx_io.INPUT, *fetched], [batch, *session.run(fetched, {onnx_io.INPUT: batch})])
        for name, value in values:
            if value.dtype == np.float32:
                largest[name] = np.maximum(largest.get(name, 0), np.abs(value).max())  # NaN stays NaN
    for name, value in largest.items():
        if not np.isfinite(value):
            raise UserError(f"calibration: {name} saw {value}; check the checkpoint and the images")
    return {name: float(value) for name, value in largest.items()}
