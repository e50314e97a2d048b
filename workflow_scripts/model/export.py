"""Export a folded torch module to ONNX with readable names; every precision uses this exporter."""

import io
import warnings

import onnx
import torch

from core.files import UserError
from graph import names
from graph.onnx_io import INPUT, OUTPUT

OPSET = 13  # the newest that TensorRT 8.4 and 8.5 support fully, the oldest with per-channel QuantizeLinear
LARGEST = (1 << 31) - (1 << 20)  # bytes of weights in one file of protobuf, beside which is the graph


@torch.no_grad()
def to_onnx(model: torch.nn.Module, size: int) -> onnx.ModelProto:
    """Return the ONNX model of a folded network: float32 `input_0` [batch, 3, size, size] -> `output_0` logits.

    The batch is dynamic. The exporter folds no constants: the graph passes do, and they are logged and verified. Raises
    UserError where the file would be too large.
    """
    weights = sum(value.nbytes for value in model.state_dict().values())
    if weights >= LARGEST:
        raise UserError(f"the network has {weights / 1e9:.1f} GB of weights, an ONNX file holds 2 GB: use another")
    buffer, example = io.BytesIO(), torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but it alone keeps module names
        torch.onnx.export(
            model,
            (example,),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )
    return names.tidy_model(onnx.load_from_string(buffer.getvalue()))
