"""The clean graph of a precision's weights: those of the checkpoint as calibration adjusts them, or those of QAT."""

import argparse
import copy
import os
from typing import Any

import onnx_graphsurgeon as gs
import torch

from core import resolved
from core.files import read_json
from graph import onnx_io, passes
from model import checkpoint, deploy, equivalence, export, zoo
from quantization import amax, backends, bias_correction, calibration_images, calibrator

KINDS = {  # as placements name them: classes of modules with quantizers
    "conv": torch.nn.Conv2d,
    "linear": torch.nn.Linear,
    "attention": deploy.MatMul,
    "residual": deploy.ResidualAdd,
}


def build(
    args: argparse.Namespace, names: list[str], placement: list[str], images: str | os.PathLike
) -> tuple[gs.Graph, Any]:
    """Return (clean graph, {quantizer: amax} or None) of a command's arguments and a graph variant.

    args: model (path), classes, checkpoint, qat (a checkpoint with ranges, or None), calibration (or None); names,
    placement: the passes and the quantized kinds of nodes of the graph variant; images: path of a preprocessed split,
    on which folding is proved. Biases are corrected for what the placement quantizes.
    """
    row = resolved.read(args.model, resolved.VISION)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(images, row))
    calibration = read_json(args.calibration) if args.calibration else {}
    ranges = calibration.get("amax")
    if args.qat:
        weights, ranges = amax.split_state(checkpoint.read(args.qat))
        checkpoint.load_state(model, weights, args.qat)
        bias_correction.apply(model, _of_fewer(model, ranges, calibration, placement, images, row))
    else:
        calibrator.adjust(model, calibration, lambda name: _kind_of(model.get_submodule(name)) in placement)
    exported = onnx_io.from_model(export.to_onnx(model, row["size"]))
    return passes.apply(exported, names), ranges


def _of_fewer(model, ranges, calibration, placement, images, row):
    """Return the correction of the biases of QAT, which had all quantizers, for a placement with fewer kinds."""

    def is_placed(name):
        return _kind_of(model.get_submodule(amax.module_of(name))) in placement

    if all(map(is_placed, ranges)):
        return {}
    network = backends.add(copy.deepcopy(model), calibration.get("recipe", {}))
    amax.load(network, ranges)
    pixels = calibration_images.CalibrationImages(images, bias_correction.IMAGES, row)
    return bias_correction.of_fewer(network.eval(), pixels, is_placed)


def _kind_of(module):
    """Return the kind of a module with quantizers, as placements name it."""
    return next(kind for kind, classes in KINDS.items() if isinstance(module, classes))
