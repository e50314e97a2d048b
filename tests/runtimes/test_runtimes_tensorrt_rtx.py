"""TensorRT-RTX engines: built on any machine; loading one without an RTX GPU is a clear error."""

import types

import onnx
import pytest

import engine_graphs
import runtimes
from core.files import UserError
from devices import probe
from runtimes import _calibration, _layers, _tensorrt

if probe.facts("tensorrt_rtx")["version"] is None:
    pytest.skip("TensorRT-RTX is not installed", allow_module_level=True)

RECIPE = {"compute": "fp32", "batches": [1, 8]}
INT8 = {**RECIPE, "compute": "int8", "high_precision": "fp32"}
FP16 = {**RECIPE, "compute": "fp16"}


@pytest.fixture(scope="module")
def runtime():
    return runtimes.load("tensorrt_rtx")


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rtx")
    plain = engine_graphs.network(folder / "net.onnx")
    half = engine_graphs.halved(plain, folder / "half.onnx")
    return {"fp32": plain, "fp16": half, "int8": engine_graphs.quantized(folder / "q.onnx")}


def test_calibration_cache_is_completed_for_a_real_network(runtime, tmp_path):
    """The library takes no cache itself, but its parser and networks are those of the versions that do."""
    trt, nodes = runtime.library(), engine_graphs.gemm_nodes()
    builder = trt.Builder(_tensorrt.logger_of(trt))
    network, parser = _tensorrt.parse(trt, builder, engine_graphs.network(tmp_path / "net.onnx", nodes=nodes))
    scales = dict.fromkeys(["input_0", *(name for node in nodes for name in node.output)], 0.5)
    found, missing = _calibration.complete(trt, network, scales)
    assert not missing and len(found) > len(scales) and found.items() >= scales.items()
    assert min(found.values()) > 0 and max(found.values()) < 0.6
    _, missing = _calibration.complete(trt, network, {"input_0": 0.5})
    assert "conv" in missing and "output_0" in missing
    del parser


@pytest.mark.parametrize("recipe", [RECIPE, FP16, INT8], ids=lambda recipe: recipe["compute"])
def test_build_and_what_it_computes_in(runtime, graphs, tmp_path, recipe):
    engine, name = tmp_path / "net.engine", recipe["compute"]
    described = runtime.build(graphs[name], recipe, None, str(engine))
    assert engine.stat().st_size > 10_000
    assert described["precision_of_layers"][name] > 0 and described["layers_from"] == "the builder's log"
    assert not [text for text in described["warnings"] if text.startswith("the recipe asks")]
    others = {"fp32": ("fp16", "int8"), "fp16": ("int8",), "int8": ("fp16",)}[name]
    assert all(described["precision_of_layers"][other] == 0 for other in others)


def test_a_second_build_says_the_same(runtime, graphs, tmp_path):
    """Messages of one build must not be counted in the next."""
    first, second = (runtime.build(graphs["int8"], INT8, None, str(tmp_path / name)) for name in "ab")
    assert first["layer_count"] == second["layer_count"]


def test_asked_precision_that_is_not_there_is_told(runtime, graphs, tmp_path):
    described = runtime.build(graphs["fp32"], FP16, None, str(tmp_path / "e"))
    assert "the recipe asks for fp16, and no layer computes in it" in described["warnings"]


@pytest.mark.parametrize("kind", ["fp32", "int8"])
@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "names alone"])
def test_the_parsers_layers_are_those_of_the_graphs_nodes(runtime, graphs, kind, metadata):
    """What a plan is told to: TensorRT's own parser, which names layers and adds some."""
    trt = runtime.library()
    network, parser = _tensorrt.parse(trt, trt.Builder(_tensorrt.logger_of(trt)), graphs[kind])
    nodes = {node.name for node in onnx.load(graphs[kind]).graph.node}
    layers = _layers.layers_of(network)
    named = layers if metadata else [types.SimpleNamespace(name=layer.name) for layer in layers]
    origins = [_layers.node_of(layer, nodes) for layer in named]
    assert nodes <= set(origins) and len(layers) > len(nodes)
    added = [layer for layer, origin in zip(layers, origins) if origin is None and _layers.takes_precision(trt, layer)]
    floats = [layer for layer in added if any(t.dtype == trt.float32 for t in _layers.outputs_of(layer))]
    assert {layer.type for layer in floats} <= {trt.LayerType.SHUFFLE}
    del parser


def test_compute_capabilities(runtime, graphs, tmp_path):
    described = runtime.build(graphs["fp32"], {**RECIPE, "compute_capabilities": ["8.6"]}, None, str(tmp_path / "e"))
    assert described["compute_capabilities"] == ["8.6"]
    with pytest.raises(UserError, match="cannot build for SM72: one of SM"):
        runtime.build(graphs["fp32"], {**RECIPE, "compute_capabilities": ["7.2"]}, None, str(tmp_path / "e"))


def test_node_that_does_not_parse_is_named(runtime, tmp_path):
    from onnx import helper

    nodes = [
        helper.make_node("Flatten", ["input_0"], ["flat"], name="/flat"),
        helper.make_node("Det", ["input_0"], ["det"], name="/odd/one"),
        helper.make_node("ReduceMean", ["flat"], ["output_0"], name="/mean", axes=[1]),
    ]
    odd = engine_graphs.network(tmp_path / "odd.onnx", nodes=nodes)
    with pytest.raises(UserError, match=r"odd.onnx: TensorRT cannot take node /odd/one \(Det\)"):
        runtime.build(odd, RECIPE, None, str(tmp_path / "e"))
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(UserError, match="text.onnx: "):
        runtime.build(str(tmp_path / "text.onnx"), RECIPE, None, str(tmp_path / "e"))


def test_fixed_batch(runtime, tmp_path):
    fixed = engine_graphs.network(tmp_path / "fixed.onnx", batch=2)
    with pytest.raises(UserError, match="input input_0 has a fixed batch of 2"):
        runtime.build(fixed, RECIPE, None, str(tmp_path / "e"))


@pytest.mark.skipif(probe.facts("tensorrt_rtx")["device"] is not None, reason="this machine has an NVIDIA GPU")
def test_loading_without_a_gpu(runtime, tmp_path):
    with pytest.raises(
        UserError, match=r"net.engine cannot be loaded here: .* GPU of compute capability .* none here"
    ) as error:
        runtime.load(str(tmp_path / "net.engine"))
    assert "\n" not in str(error.value)


def test_layers_of_text():
    """The builder's text, without a build: types of inputs decide, constants do not."""
    text = (
        "Layers:\n"
        "Name: /conv_0, LayerType: correlation, "
        "Inputs: [ { Name: a, Dimensions: [-1,4,8,8], Strides: [1], Datatype: Int8, Format: (NHWC) }], "
        "Constants: [ { Name: w, Dimensions: [4,4], Datatype: Int8 }, { Name: b, Dimensions: [4], Datatype: Float }], "
        "Outputs: [ { Name: c, Dimensions: [-1,4], Datatype: Float }], TacticName: t, StreamId: 0\n"
        "Name: quantize_1, LayerType: kgen, Inputs: [ { Name: c, Dimensions: [-1,4], Datatype: Half }], "
        "Constants: [ { Name: s, Dimensions: [1], Datatype: Float }], "
        "Outputs: [ { Name: d, Dimensions: [-1,4], Datatype: Int8 }], TacticName: t, StreamId: 0\n"
        "Name: shape_2, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0\n"
    )
    assert _tensorrt.layers_of_log(["noise", text]) == [
        {"name": "/conv_0", "type": "correlation", "precision": "int8"},
        {"name": "quantize_1", "type": "kgen", "precision": "fp16"},
        {"name": "shape_2", "type": "shape_call", "precision": "none"},
    ]
    assert _tensorrt.layers_of_log(["noise"]) is None
