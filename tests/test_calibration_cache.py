"""TensorRT's calibration cache has the scales of the explicit Q/DQ graph."""

import json

import pytest

import export_cache
from files import UserError
from graph import onnxio, passes, qdq
from model import deploy, export
from quantizing import calibrated, random_images
from runtimes import _calibration
from test_graph import CLASS_PASSES, EVERYTHING, SIZE, trained_like


@pytest.fixture(scope="module")
def folded():
    return deploy.fold(trained_like())


def test_no_cache_is_written_for_a_scaled_network(folded, tmp_path):
    found = calibrated(folded, random_images(8), equalize=True)[0]
    (tmp_path / "c.json").write_text(json.dumps(found))
    given = [
        "--clean",
        "x",
        "--calibration",
        str(tmp_path / "c.json"),
        "--placement",
        "[]",
        "--version",
        "8.5",
        "--cache",
        "x",
    ]
    with pytest.raises(
        UserError, match=r"c.json is of a scaled network \(equalize or smoothing\), and a cache is read"
    ):
        export_cache.produce(export_cache.command().parser.parse_args(given))


def test_calibration_cache_has_the_scales_of_the_pairs(folded, tmp_path):
    """Implicit and explicit INT8 quantize alike: each activation that has a pair has its scale in the cache."""
    amax, placement = calibrated(folded, random_images(8))[0]["amax"], EVERYTHING
    clean = onnxio.to_model(passes.apply(onnxio.imported(export.to_onnx(folded, SIZE)), CLASS_PASSES["gpu"]))
    scales = qdq.activation_scales(onnxio.imported(clean), amax, placement)
    (tmp_path / "c").write_text(_calibration.text(scales, "8.5.2"))
    read, pairs = _calibration.read(tmp_path / "c"), {}
    for node in qdq.insert(onnxio.imported(clean), amax, placement).nodes:
        if node.op == "QuantizeLinear" and "axis" not in node.attrs:
            pairs.setdefault(node.inputs[0].name, []).append(float(node.inputs[1].values))
    assert read.keys() == pairs.keys() and len(read) > 20
    assert all(read[name] == max(scale) for name, scale in pairs.items())
    tensors = onnxio.imported(clean).tensors()
    assert set(read) <= set(tensors), "the cache speaks of tensors of the clean graph"
