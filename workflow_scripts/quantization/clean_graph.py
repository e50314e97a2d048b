"""The clean graph of a precision's weights: those of the checkpoint as calibration adjusts them, or those of QAT."""

import argparse
import os
from typing import Any

import onnx_graphsurgeon as gs
import torch

from core import resolved
from core.files import read_json
from graph import onnx_io, passes
from model import checkpoint, deploy, equivalence, export, zoo
from quantization import calibrator
from quantization.amax import split_state


def build(
    args: argparse.Namespace, names: list[str], placement: list[str], images: str | os.PathLike
) -> tuple[gs.Graph, Any]:
    """Return (clean graph, {quantizer: amax} or None) of a command's arguments and a graph variant.

    args: model (path), classes, checkpoint, qat (a checkpoint with ranges, or None), calibration (or None); names,
    placement: the passes and the quantized kinds of nodes of the graph variant; images: path of a preprocessed split,
    on which folding is proved. Biases are corrected only in layers that the placement quantizes.
    """
    row = resolved.read(args.model, resolved.VISION)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(images, row))
    calibration = read_json(args.calibration) if args.calibration else {}
    amax = calibration.get("amax")
    if args.qat:
        weights, amax = split_state(checkpoint.read(args.qat))
        checkpoint.load_state(model, weights, args.qat)
    else:
        calibrator.adjust(model, calibration, lambda name: _kind_of(model.get_submodule(name)) in placement)
    exported = onnx_io.from_model(export.to_onnx(model, row["size"]))
    return passes.apply(exported, names), amax


def _kind_of(module):
    """Return the kind of a module with a weight, as placements name it."""
    return "conv" if isinstance(module, torch.nn.Conv2d) else "linear"
