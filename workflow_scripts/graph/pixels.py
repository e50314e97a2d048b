"""Put the normalization of images into a graph, which then takes uint8 pixels as they are decoded."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from core.command import log
from core.files import UserError
from graph import onnx_io, surgery

NAME = "pixels"  # of the input; the normalized images keep the name that scales and calibration caches know
TOLERANCE = 1e-5  # of the first tensor that must stay the same, relative to its largest value
PROVED = 2  # random images
BY_ROWS = ("openvino",)  # runtimes that quantize rows of pixels in a tenth of the time; TensorRT reshapes no uint8


def take(
    graph: gs.Graph, mean: Sequence[float], std: Sequence[float], normalize: Callable, runtime: str = ""
) -> gs.Graph:
    """Return the graph with an input uint8 [B, H, W, 3] in place of float32 [B, 3, H, W], normalized by mean and std.

    mean, std: per channel, of images in 0..1; normalize: (pixels, mean, std) -> images, the reference. Where a
    convolution alone reads the images, its weights take in the factor 1 / (255 std). The mean remains a subtraction:
    zeros that pad an image are zeros of the normalized one. A runtime of BY_ROWS quantizes pixels before it transposes
    them, where a Q/DQ pair of one scale alone reads the images.
    Raises UserError where the graph computes another tensor than before.
    """
    images, centers, spreads = graph.inputs[0], np.asarray(mean, np.float64), np.asarray(std, np.float64)
    before, first = graph.copy(), surgery.consumer(images, "Conv")
    folded = first is not None and isinstance(first.inputs[1], gs.Constant) and len(first.inputs[1].outputs) == 1
    if folded:
        weight = first.inputs[1]
        first.inputs[1] = _constant(f"{weight.name}_of_pixels", weight.values / _channels(255 * spreads))
        log.info("%s: its weights take in the factor of the normalization", first.name)
    _normalize(graph, images, *((1.0, -255 * centers) if folded else (1 / (255 * spreads), -centers / spreads)))
    _prove(before, graph, first.outputs[0].name if folded else images.name, lambda pixels: normalize(pixels, mean, std))
    pair = surgery.consumer(images, "QuantizeLinear")
    if runtime in BY_ROWS and pair is not None and pair.inputs[1].values.size == 1:
        _by_rows(graph, pair.outputs[0].outputs[0])
    return graph


def _by_rows(graph, dequantize):
    """Normalize and quantize rows [B, H, 3 W], whose elements are a vector, and transpose what the pair gives."""
    before, pixels, values = graph.copy(), graph.inputs[0], dequantize.outputs[0]
    batch, height, width, channels = pixels.shape
    cast, rows = pixels.outputs[0], [batch, height, width * channels]
    transpose = cast.outputs[0].outputs[0]
    surgery.reconnect(cast, pixels, surgery.reshape(graph, pixels, rows, "normalize/Rows"))
    surgery.reconnect(transpose.outputs[0].outputs[0], transpose.outputs[0], cast.outputs[0])
    transpose.inputs.clear()
    node = cast
    while node is not dequantize:
        node.outputs[0].shape = rows
        node = node.outputs[0].outputs[0]
        if node.op in ("Mul", "Add"):
            node.inputs[1].values = np.tile(node.inputs[1].values.ravel(), width)
    dequantize.outputs = [gs.Variable(f"{values.name}_rows", dtype=np.float32, shape=rows)]
    transpose.inputs = [surgery.reshape(graph, dequantize.outputs[0], pixels.shape, "normalize/Pixels")]
    transpose.outputs = [values]
    graph.cleanup().toposort()
    _prove(before, graph, values.name, lambda pixels: pixels)


def _normalize(graph, images, factor, offset):
    """Write `images` from a new input: cast, transposed, times the factor (unless it is 1), plus the offset."""
    batch, channels, height, width = images.shape
    pixels = gs.Variable(NAME, dtype=np.uint8, shape=[batch, height, width, channels])
    value = surgery.append(graph, "Cast", "normalize/Cast", [pixels], pixels.shape, {"to": onnx_io.FLOAT})
    value = surgery.append(graph, "Transpose", "normalize/Transpose", [value], images.shape, {"perm": [0, 3, 1, 2]})
    if np.ndim(factor):
        factor = _constant("normalize/factor", _channels(factor))
        value = surgery.append(graph, "Mul", "normalize/Mul", [value, factor], images.shape)
    offset = _constant("normalize/offset", _channels(offset))
    value = surgery.append(graph, "Add", "normalize/Add", [value, offset], images.shape)
    value.inputs[0].outputs = [images]
    graph.inputs = [pixels]
    graph.cleanup().toposort()


def _channels(values):
    return np.reshape(values, (1, -1, 1, 1))


def _constant(name, values):
    return gs.Constant(name, np.asarray(values, np.float32))


def _prove(before, after, name, normalize):
    """Compare a tensor of both graphs on random pixels."""
    shape = [PROVED if isinstance(size, str) else size for size in after.inputs[0].shape]
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = normalize(pixels)
    old = images if name == before.inputs[0].name else onnx_io.run(before, {before.inputs[0].name: images}, name)
    error = np.abs(onnx_io.run(after, {NAME: pixels}, name) - old).max() / np.abs(old).max()
    if not error <= TOLERANCE:
        raise UserError(f"{name} changes by {error:.2g} of its largest value when the graph takes pixels: report this")
