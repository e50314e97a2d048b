"""TensorRT's calibration cache has the scales of the explicit Q/DQ graph, and one for every other activation."""

import json

import numpy as np
import pytest
from test_graph import CLASS_PASSES, EVERYTHING, SIZE, deployed, images, logits, trained_like

import export_cache
from core.files import UserError
from graph import onnx_io, passes, qdq
from model import export
from quantization.methods import SMALLEST
from quantizing import calibrated, random_images
from runtimes import _calibration


@pytest.fixture(scope="module")
def folded():
    return deployed(trained_like())


def test_no_cache_is_written_for_a_scaled_network(folded, tmp_path):
    found = calibrated(folded, random_images(8), equalize=True)[0]
    (tmp_path / "c.json").write_text(json.dumps(found))
    given = [
        "--clean",
        "x",
        "--calibration",
        str(tmp_path / "c.json"),
        "--images",
        "x",
        "--model",
        "{}",
        "--count",
        "1",
    ]
    given += ["--placement", "[]", "--version", "8.5", "--cache", "x"]
    with pytest.raises(
        UserError, match=r"c.json is of a scaled network \(equalize or smoothing\), but a cache belongs to"
    ):
        export_cache.run(export_cache.command().parser.parse_args(given))


@pytest.fixture(scope="module")
def clean(folded):
    return onnx_io.to_model(passes.apply(onnx_io.from_model(export.to_onnx(folded, SIZE)), CLASS_PASSES["gpu"]))


@pytest.fixture(scope="module")
def amax(folded):
    return calibrated(folded, random_images(8))[0]["amax"]


@pytest.fixture(scope="module")
def scales(clean, amax):
    return export_cache.scales_of(onnx_io.from_model(clean), amax, EVERYTHING, [images(3), images(2, seed=2)])


def test_calibration_cache_has_the_scales_of_the_pairs(clean, amax, scales, tmp_path):
    """Implicit and explicit INT8 quantize alike: each activation that has a pair has its scale in the cache."""
    (tmp_path / "c").write_text(_calibration.text(scales, "8.5.2"))
    read, pairs = _calibration.read(tmp_path / "c"), {}
    for node in qdq.insert(onnx_io.from_model(clean), amax, EVERYTHING).nodes:
        if node.op == "QuantizeLinear" and "axis" not in node.attrs:
            pairs.setdefault(node.inputs[0].name, []).append(float(node.inputs[1].values))
    assert read.keys() > pairs.keys() and len(pairs) > 20
    assert all(read[name] == max(scale) for name, scale in pairs.items())


def test_calibration_cache_has_all_activations(clean, amax, scales):
    """Those without a pair have the largest magnitude over all batches, and no weight or shape has any."""
    graph = onnx_io.from_model(clean)
    written = {tensor.name for node in graph.nodes for tensor in node.outputs}
    assert scales.keys() == written | {"input_0"}
    paired = qdq.activation_scales(graph, amax, EVERYTHING)
    assert "output_0" not in paired and "stem.conv1/Conv_output_0" not in paired
    largest = max(np.abs(logits(onnx_io.from_model(clean), batch)).max() for batch in (images(3), images(2, seed=2)))
    assert scales["output_0"] == np.float32(float(largest) / qdq.QMAX)


def test_a_smaller_placement_leaves_no_tensor_out(clean, amax, scales):
    found = export_cache.scales_of(onnx_io.from_model(clean), amax, ["conv"], [images(1)])
    assert found.keys() == scales.keys()


def test_pooling_keeps_the_scale(folded, amax):
    """A DLA wants one for both sides; elsewhere the mean over tokens has one of its own."""
    passes_of_a_dla = [*CLASS_PASSES["gpu"][:-2], "linear_to_conv", "mean_to_pool"]
    graph = passes.apply(onnx_io.from_model(export.to_onnx(folded, SIZE)), passes_of_a_dla)
    found = export_cache.scales_of(graph, amax, ["conv", "linear", "residual"], [images(2)])
    (pool,) = [node for node in graph.nodes if node.op == "AveragePool"]
    assert found[pool.outputs[0].name] == found[pool.inputs[0].name] > 0
    assert found.keys() == {tensor.name for node in graph.nodes for tensor in node.outputs} | {"input_0"}


def test_dead_and_infinite_activations(clean):
    graph = onnx_io.from_model(clean)
    zero = {name for name, value in onnx_io.magnitudes(graph, [0 * images(1)]).items() if value == 0}
    assert zero == {"input_0"}
    assert export_cache.scales_of(graph, {}, [], [0 * images(1)])["input_0"] == np.float32(SMALLEST / 127)
    with pytest.raises(UserError, match="calibration: input_0 reaches nan; check the checkpoint and the images"):
        onnx_io.magnitudes(graph, [images(1), np.nan * images(1), images(1)])


def test_both_halves_have_the_same_constants():
    assert (_calibration.QMAX, _calibration.SMALLEST) == (qdq.QMAX, SMALLEST)
