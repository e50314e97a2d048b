"""Graphs that take pixels: their logits equal those of normalized images."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from core.files import UserError
from data import preprocess
from graph import onnx_io, pixels

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def graph_of(quantized=False, readers=1):
    """Return a padded convolution and a mean over its images; quantized: a Q/DQ pair before it."""
    random, images = np.random.default_rng(0), gs.Variable("input_0", np.float32, ["B", 3, 16, 16])
    weight, nodes, value = gs.Constant("w", random.standard_normal((8, 3, 3, 3), dtype=np.float32)), [], images
    if quantized:
        pair = [gs.Constant("scale", np.array(0.02, np.float32)), gs.Constant("zero", np.array(0, np.int8))]
        codes, value = gs.Variable("codes", np.int8), gs.Variable("real", np.float32)
        nodes = [gs.Node("QuantizeLinear", "q", {}, [images, *pair], [codes])]
        nodes += [gs.Node("DequantizeLinear", "dq", {}, [codes, *pair], [value])]
    output = gs.Variable("output_0", np.float32, ["B", 8])
    features = [gs.Variable(f"features{n}", np.float32) for n in range(readers)]
    nodes += [gs.Node("Conv", f"conv{n}", {"pads": [1] * 4}, [value, weight], [f]) for n, f in enumerate(features)]
    nodes += [gs.Node("ReduceMean", "mean", {"axes": [2, 3], "keepdims": 0}, [features[-1]], [output])]
    return gs.Graph(nodes, inputs=[images], outputs=[output, *features[:-1]], opset=14)


@pytest.mark.parametrize("options, folded", [({}, True), ({"quantized": True}, False), ({"readers": 2}, False)])
def test_the_logits_of_pixels_are_those_of_their_normalized_images(options, folded):
    before = graph_of(**options)
    after = pixels.take(before.copy(), MEAN, STD, preprocess.normalize)
    assert [(value.name, value.dtype, value.shape) for value in after.inputs] == [
        ("pixels", np.uint8, ["B", 16, 16, 3])
    ]
    assert ("Mul" in [node.op for node in after.nodes]) is not folded
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = onnx_io.run(before, {"input_0": preprocess.normalize(images, MEAN, STD)}, "output_0")
    assert np.allclose(onnx_io.run(after, {"pixels": images}, "output_0"), expected, atol=1e-5)


def test_rows_of_pixels_are_quantized_before_they_are_transposed():
    taken = [pixels.take(graph_of(quantized=True), MEAN, STD, preprocess.normalize, name) for name in ("", "openvino")]
    ops = [[node.op for node in graph.nodes] for graph in taken]
    assert [found.index("Transpose") < found.index("QuantizeLinear") for found in ops] == [True, False]
    images = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), np.uint8)
    first, second = (onnx_io.run(graph, {"pixels": images}, "output_0") for graph in taken)
    assert np.array_equal(first, second)


def test_a_graph_that_takes_pixels_can_be_saved_and_read_again(tmp_path):
    after = pixels.take(graph_of(), MEAN, STD, preprocess.normalize)
    onnx_io.save(after, tmp_path / "a.onnx")
    onnx_io.save(onnx_io.load(tmp_path / "a.onnx"), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_another_normalization_than_the_reference_is_found():
    with pytest.raises(UserError, match="input_0 changes by"):
        pixels.take(
            graph_of(quantized=True), MEAN, STD, lambda batch, mean, std: np.float32(batch.transpose(0, 3, 1, 2))
        )
