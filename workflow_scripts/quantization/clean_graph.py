"""The clean graph of a precision's weights: the checkpoint's, as calibration adjusted them or as QAT left them."""

import torch

from core import resolved
from core.files import read_json
from graph import onnx_io, passes
from model import checkpoint, deploy, equivalence, export, zoo
from quantization import calibrator
from quantization.amax import split_state


def build(args, passes_of_class, placement, images):
    """Return (clean graph, {quantizer: amax} or None) of a command's arguments and a class's passes and placement.

    args: model (its file), classes, checkpoint, qat (a checkpoint with ranges, or nothing), calibration (or nothing).
    images: path of a preprocessed split, on which folding is proved. Biases are corrected only where the placement
    quantizes.
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
    return passes.apply(exported, passes_of_class), amax


def _kind_of(module):
    """Return the kind, as placements name it, of a module that has a weight."""
    return "conv" if isinstance(module, torch.nn.Conv2d) else "linear"
