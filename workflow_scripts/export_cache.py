"""Write a TensorRT calibration cache from calibrated ranges: implicit INT8, for a DLA and for users of older tools.

The cache has a scale for every activation of the clean graph, because TensorRT runs no layer in INT8 that reads or
writes a tensor without a scale. Tensors that the Q/DQ placement quantizes have the scale of their Q/DQ pair; all others
have the largest magnitude over the calibration images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from core import progress, resolved
from core.command import Command, Job, log
from core.files import UserError, read_json, replacing

BATCH = 8  # images; LeViT-128S has 25 MB of activations for each
POOLING = ("AveragePool", "MaxPool")  # on a DLA, input and output have the same scale (NvInfer.h)


def scales_of(
    graph: Any, amax: dict[str, float], placement: list[str], batches: Iterable[np.ndarray], threads: int = 0
) -> dict[str, float]:
    """Return {tensor name: scale} of all float32 activations of a clean graph.

    amax: {quantizer: range}; batches: float32 [N, 3, H, W] each. Raises UserError as qdq.activation_scales does.
    """
    from graph import onnx_io, qdq
    from quantization.methods import SMALLEST

    paired = qdq.activation_scales(graph, amax, placement)
    largest = onnx_io.magnitudes(graph, batches, threads)
    others = {name: max(value, SMALLEST) / qdq.QMAX for name, value in largest.items()}
    scales = {**{name: float(np.float32(scale)) for name, scale in others.items()}, **paired}
    for node in graph.nodes:
        if node.op in POOLING:
            scales[node.outputs[0].name] = scales[node.inputs[0].name]
    return scales


def batches_of(path: str, count: int, model: dict) -> Iterator[np.ndarray]:
    """Yield the first `count` images of a split in small batches, float32 [N, 3, H, W], under a progress bar."""
    from quantization.calibration_images import CalibrationImages

    images = CalibrationImages(path, count, model)
    for start in progress.over(range(0, len(images), BATCH), "ranges", "batch"):
        yield images[start : start + BATCH].numpy()


def run(args: Job) -> None:
    from graph import onnx_io
    from model import checkpoint
    from quantization.amax import split_state
    from runtimes import _calibration

    if not args.version:
        remedy = "give it in the target's row (version), or copy results/targets/ from the target"
        raise UserError(f"the target's TensorRT version is unknown: {remedy}")
    calibration = read_json(args.calibration)
    if calibration.get("scaling"):
        scaled = f"{args.calibration} is of a scaled network (equalize or smoothing)"
        raise UserError(f"{scaled}, but a cache belongs to the unscaled graph: calibrate without them")
    amax = split_state(checkpoint.read(args.qat))[1] if args.qat else calibration["amax"]
    batches = batches_of(args.images, args.count, resolved.read(args.model, resolved.NORMALIZATION))
    scales = scales_of(onnx_io.load(args.clean), amax, args.placement, batches, args.threads)
    with replacing(args.cache) as partial, open(partial, "w", encoding="ascii") as stream:
        stream.write(_calibration.text(scales, args.version))
    log.info("%d tensors have a scale", len(scales))


def command() -> Command:
    c = Command(__file__, __doc__, tools=("onnx", "onnx-graphsurgeon", "onnxruntime"))
    c.input("--clean", help="clean graph").input("--calibration").input("--qat", required=False)
    c.input("--images", help="preprocessed calib split (.u8)")
    c.model(resolved.NORMALIZATION).json_param("--count", help="number of images")
    c.json_param("--placement", help="kinds of nodes with quantized inputs")
    c.param("--version", required=True, help="TensorRT version of the target")
    return c.output("--cache").untracked("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(run)
