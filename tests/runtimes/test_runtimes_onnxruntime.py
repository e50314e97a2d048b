"""ONNX Runtime engines, and plain graphs as engines."""

from pathlib import Path

import numpy as np
import pytest

import engine_graphs
import runtimes
from core.files import UserError
from devices import probe
from runtimes import _container

pytest.importorskip("onnxruntime")

RECIPE = {"compute": "fp32", "batches": [1, 4]}
INT8 = {**RECIPE, "compute": "int8", "high_precision": "fp32"}


@pytest.fixture(scope="module")
def runtime():
    return runtimes.load("onnxruntime")


@pytest.fixture(scope="module")
def built(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnxruntime")
    onnx, engine = engine_graphs.network(folder / "net.onnx"), str(folder / "net.engine")
    return onnx, engine, runtime.build(onnx, RECIPE, None, engine)


@pytest.mark.parametrize("count", [1, 5])
def test_engine_and_plain_graph(runtime, built, count):
    images = engine_graphs.images(count)
    wanted = engine_graphs.expected(images)
    for path in built[:2]:
        assert np.allclose(runtime.load(path, threads=1).run(images), wanted, atol=1e-5)


def test_description(built):
    described = built[2]
    assert described["precision_of_layers"]["fp32"] > 5 and described["precision_of_layers"]["int8"] == 0
    assert {"Conv", "Softmax"} <= {layer["type"] for layer in described["layers"]}
    assert described["warnings"] == []


def kinds(layers):
    return sorted(layer["type"] for layer in layers)


def test_engine_is_already_optimized(runtime, built, tmp_path):
    """The fused nodes are in the file, and loading one fuses no more: what was built is what runs."""
    assert kinds(runtime.inspect(built[1])) == kinds(built[2]["layers"]) == kinds(runtime.inspect(built[0]))
    header, _ = _container.read(built[1], probe.facts("onnxruntime"))
    _container.write(str(tmp_path / "raw.engine"), header, {"model.onnx": Path(built[0]).read_bytes()})
    raw = kinds(runtime.inspect(str(tmp_path / "raw.engine")))
    assert "HardSigmoid" in raw and "HardSigmoid" not in kinds(built[2]["layers"])


@pytest.mark.parametrize(("isa", "entry"), [(["avx2", "avx_vnni"], "0"), (["avx2"], "1")])
def test_products_are_exact_without_vnni_and_fast_with_it(runtime, built, monkeypatch, isa, entry):
    here = probe.facts("onnxruntime")
    monkeypatch.setattr(probe, "facts", lambda name: {**here, "isa": isa})
    options = runtime.load(built[0], threads=1)._session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == entry


def test_int8_layers_are_read_back(runtime, tmp_path):
    onnx, engine = engine_graphs.quantized(tmp_path / "q.onnx"), str(tmp_path / "q.engine")
    described = runtime.build(onnx, INT8, None, engine)
    int8 = {layer["type"] for layer in described["layers"] if layer["precision"] == "int8"}
    assert any("MatMul" in kind for kind in int8) and "QuantizeLinear" not in int8
    images = engine_graphs.images(4)
    assert np.abs(runtime.load(engine).run(images) - engine_graphs.expected(images)).max() < 0.15


def test_equal_bytes(runtime, built, tmp_path):
    runtime.build(built[0], RECIPE, None, str(tmp_path / "again.engine"))
    assert (tmp_path / "again.engine").read_bytes() == Path(built[1]).read_bytes()


def test_profile_has_times(runtime, built):
    layers = runtime.profile(built[1], 4)
    assert len(layers) == built[2]["layer_count"] and sum(layer["ms"] for layer in layers) > 0


def test_bad_files(runtime, built, tmp_path):
    broken = tmp_path / "broken.engine"
    broken.write_bytes(Path(built[1]).read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole engine file"):
        runtime.load(str(broken))
    broken.write_bytes(Path(built[0]).read_bytes()[:-200])
    with pytest.raises(UserError, match="broken.engine: ONNX Runtime cannot load it"):
        runtime.load(str(broken))
    header, parts = _container.read(built[1], probe.facts("onnxruntime"))
    _container.write(str(broken), {**header, "version": "1.0"}, parts)
    with pytest.raises(UserError, match="was built for version 1.0"):
        runtime.load(str(broken))


def test_precisions_it_has_not(runtime, built, tmp_path):
    for recipe in ({**RECIPE, "compute": "bf16"}, {**INT8, "high_precision": "bf16"}):
        with pytest.raises(UserError, match="onnxruntime cannot compute in bf16 here"):
            runtime.build(built[0], recipe, None, str(tmp_path / "e"))
