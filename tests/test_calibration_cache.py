"""TensorRT's calibration cache has the scales of the explicit Q/DQ graph."""

import copy

import pytest
import torch

from graph import onnxio, passes, qdq
from model import deploy, export
from quantization import quantizers
from runtimes import _calibration
from test_graph import CLASS_PASSES, EVERYTHING, SIZE, trained_like


@pytest.fixture(scope="module")
def folded():
    return deploy.fold(trained_like())


@pytest.fixture(scope="module")
def by_max(folded):
    model = quantizers.add(copy.deepcopy(folded), "max")
    quantizers.calibrate(model, [torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))], "max")
    return model


def test_calibration_cache_has_the_scales_of_the_pairs(folded, by_max, tmp_path):
    """Implicit and explicit INT8 quantize alike: each activation that has a pair has its scale in the cache."""
    amax, placement = quantizers.ranges(by_max), EVERYTHING
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
