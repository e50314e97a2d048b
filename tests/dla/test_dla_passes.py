"""The passes that make LeViT fit a DLA: exact, the same network as timm's levit_conv_*, under the same names."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import timm
import torch
import yaml
from test_graph import CLASSES, CPU, EVERYTHING, ROW, SIZE, amax_of, deployed, images, logits, trained_like

from conftest import ROOT
from graph import onnx_io, passes, qdq, shapes
from model import export

TABLES = yaml.safe_load((ROOT / "config.yaml").read_text())["graphs"]
LISTS = {name: TABLES[name]["passes"] for name in ("dla1", "dla2")}
PLAIN = CPU.split()[:-1]
COMPUTE = ("Conv", "MatMul", "Gemm")


@pytest.fixture(scope="module")
def model():
    return trained_like()


@pytest.fixture(scope="module")
def exported(model):
    return export.to_onnx(deployed(model), SIZE)


@pytest.fixture(scope="module", params=sorted(LISTS))
def clean(request, exported):
    return shapes.annotate(passes.apply(onnx_io.from_model(exported), LISTS[request.param]))


def modules(graph):
    return {qdq.module_of(node) for node in graph.nodes if node.op in COMPUTE}


def test_outputs_are_those_of_timms_network_of_convolutions(model, clean):
    """levit_conv_128s has the same weights, those of linear layers with two dimensions more."""
    options = {**ROW["options"], "img_size": SIZE, "num_classes": CLASSES}
    conv = timm.create_model("levit_conv_128s", pretrained=False, **options).eval()
    own, state = conv.state_dict(), model.state_dict()
    assert own.keys() == state.keys()
    conv.load_state_dict({name: value.reshape(own[name].shape) for name, value in state.items()})
    for batch in (1, 3):
        with torch.no_grad():
            expected = conv(torch.from_numpy(images(batch))).numpy()
        assert np.abs(logits(clean, images(batch)) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_only_products_of_activations_are_left_of_products(clean):
    left = [node for node in clean.nodes if node.op in ("MatMul", "Gemm")]
    assert left and all(node.name.rsplit(".", 1)[1] in ("qk/MatMul", "av/MatMul") for node in left)
    assert not {node.op for node in clean.nodes} & {"HardSigmoid", "HardSwish", "ReduceMean", "Gemm", "Flatten"}


def test_convolutions_and_sums_work_on_images(clean):
    for node in clean.nodes:
        if node.op in ("Conv", "AveragePool", "Clip") or qdq.kind_of(node) == "residual":
            assert len(node.outputs[0].shape) == 4 and node.outputs[0].shape[0] == "batch", node.name
    strides = [node.attrs["strides"] for node in clean.nodes if node.name.endswith("q.ln/Conv")]
    assert strides == [[2, 2], [2, 2]]
    assert all(isinstance(node.inputs[1], gs.Constant) for node in clean.nodes if node.op == "Reshape")


def test_a_split_is_slices_where_the_table_says_so(exported):
    graphs = {name: passes.apply(onnx_io.from_model(exported), names) for name, names in LISTS.items()}
    kinds = {name: {node.op for node in graph.nodes} for name, graph in graphs.items()}
    assert "Split" in kinds["dla1"] and "Split" not in kinds["dla2"]
    for node in graphs["dla2"].nodes:
        if node.op == "Slice":
            assert {t.values.size for t in node.inputs[1:]} == {1} and node.inputs[4].values.item() == 1


def test_one_lineage(exported, clean):
    """Plans, ranges and caches name modules: each has one node that computes, whatever its graph variant."""
    gpu = passes.apply(onnx_io.from_model(exported), [*CPU.split(), "linear_to_gemm"])
    assert modules(clean) == modules(gpu) == modules(onnx_io.from_model(exported))
    skips = [{qdq.module_of(n) for n in g.nodes if qdq.kind_of(n) == "residual"} for g in (clean, gpu)]
    assert skips[0] == skips[1] != set()
    names = [node.name for node in clean.nodes]
    assert len(set(names)) == len(names) and not [name for name in names if name.endswith(("_", "_tokens"))]


def test_ranges_fit_the_convolutions(exported, clean):
    """Ranges calibrated on linear layers are found by the same names, one for each output channel."""
    gemms = passes.apply(onnx_io.from_model(exported), [*CPU.split(), "linear_to_gemm"])
    ranges = amax_of(gemms)
    assert qdq.activation_scales(clean, ranges, ["conv", "linear", "residual"])
    expected = logits(qdq.insert(gemms, ranges, ["conv", "linear"]), images(2))
    quantized = qdq.insert(clean.copy(), ranges, ["conv", "linear"])
    assert np.abs(logits(quantized, images(2)) - expected).max() <= 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("name", [pytest.param("dla1", marks=pytest.mark.slow), "dla2"])  # dla2 has a pass more
def test_quantized_graphs_are_accepted(exported, name):
    plain = passes.apply(onnx_io.from_model(exported), PLAIN)
    quantized = qdq.insert(plain, amax_of(plain), EVERYTHING)
    expected, pairs = logits(quantized, images(2)), sum(n.op == "QuantizeLinear" for n in quantized.nodes)
    graph = passes.apply(quantized, LISTS[name][1:])
    assert sum(n.op == "QuantizeLinear" for n in graph.nodes) == pairs
    assert np.abs(logits(graph, images(2)) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert not [n for n in graph.nodes if n.op == "MatMul" and not n.name.endswith(("qk/MatMul", "av/MatMul"))]


def test_passes_leave_what_they_do_not_know():
    """A mean over channels, a split along the batch, a linear layer without a bias: the graph stays exact."""
    source = gs.Variable("input_0", np.float32, ["batch", 4, 6])
    product, mean, output = (gs.Variable(name, np.float32) for name in ("product", "mean", "output_0"))
    nodes = [
        gs.Node(
            "MatMul", "a/MatMul", inputs=[source, gs.Constant("w", np.ones((6, 6), np.float32))], outputs=[product]
        ),
        gs.Node("ReduceMean", "m", {"axes": [2], "keepdims": 0}, [product], [mean]),
        gs.Node("Relu", "r", inputs=[mean], outputs=[output]),
    ]
    graph = gs.Graph(nodes, inputs=[source], outputs=[output], opset=13)
    kept = passes.apply(graph, ["linear_to_conv", "mean_to_pool", "split_to_slices", "hardswish_to_clip"])
    assert [node.op for node in kept.nodes] == ["MatMul", "ReduceMean", "Relu"]


@pytest.mark.parametrize("alpha, beta", [(1 / 6, 0.5), (0.2, 0.5)])
def test_a_hard_sigmoid_of_any_slope(alpha, beta):
    source, output = gs.Variable("input_0", np.float32, ["batch", 8]), gs.Variable("output_0", np.float32)
    node = gs.Node("HardSigmoid", "x/HardSigmoid", {"alpha": alpha, "beta": beta}, [source], [output])
    graph = passes.apply(gs.Graph([node], [source], [output], opset=13), ["hardswish_to_clip"])
    assert [node.op for node in graph.nodes] == ["Add", "Clip", "Mul"]
    clip = graph.nodes[1]
    assert [t.values.item() for t in clip.inputs[1:]] == [0, pytest.approx(1 / alpha)]
