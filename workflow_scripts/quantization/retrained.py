"""The clean graph of a precision's weights: the checkpoint's, or those that quantization-aware training left."""

from files import read_json
from graph import onnxio, passes
from model import checkpoint, deploy, export, zoo
from quantization import quantizers


def clean_graph(args, passes_of_class):
    """Return (clean graph, {quantizer: amax} or None) of a command's arguments and a class's passes.

    args: model (row), classes, checkpoint, qat (a checkpoint with ranges, or nothing) and calibration (or nothing).
    """
    model = deploy.fold(checkpoint.load_into(zoo.create(args.model, args.classes), args.checkpoint))
    amax = read_json(args.calibration)["amax"] if args.calibration else None
    if args.qat:
        weights, amax = quantizers.split_state(checkpoint.read(args.qat))
        checkpoint.load_state(model, weights, args.qat)
    exported = onnxio.imported(export.to_onnx(model, args.model["size"]))
    return passes.apply(exported, passes_of_class), amax
