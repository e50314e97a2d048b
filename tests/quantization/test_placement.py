"""Where Q/DQ pairs go, by what OpenVINO makes of them: INT8 layers and reformats, read back from its runtime graph.

Engines are built by the command line, in processes of their own: OpenVINO and torch do not share one.
"""

import json
import re
import subprocess

import pytest
import torch
import yaml
from test_graph import CLASSES, amax_of, deployed, trained_like

import forks
import runtimes
from conftest import ROOT
from core.files import canonical
from described import USUAL
from devices import probe
from graph import onnx_io, passes, qdq
from model import export
from planning import node_groups, simulate
from runtimes import _macs

CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
PLACEMENT, PROBABILITIES = (CONFIG["graphs"]["cpu"][key] for key in ("placement", "probabilities"))
BEFORE, AFTER = passes.around_pairs(CONFIG["graphs"]["cpu"]["passes"])
PRODUCTS = ("Conv", "MatMul", "Gemm")
KEPT = ("stem.conv2.linear", "stages.0.blocks.0.mlp.ln1", "head.linear")  # a convolution, a layer between, the last one

pytestmark = pytest.mark.skipif(probe.facts("openvino")["version"] is None, reason="OpenVINO is not installed")


@pytest.fixture(scope="module", params=["LeViT-tiny", pytest.param("LeViT-128S", marks=pytest.mark.slow)])
def clean(request):
    """A model's clean graph of the class cpu, with random weights."""
    row = {**USUAL, **CONFIG["models"][request.param]}
    folded = deployed(trained_like(row, CLASSES))
    return passes.apply(onnx_io.from_model(export.to_onnx(folded, row["size"])), BEFORE)


@pytest.fixture
def by_onnxruntime(clean, tmp_path):
    """A function (row of a graph variant) -> (Q/DQ graph, the layers of ONNX Runtime's engine, its INT8 share)."""

    def build(row):
        quantized = qdq.insert(
            passes.apply(clean.copy(), row["passes"]), amax_of(clean), row["placement"], (), row["activations"]
        )
        onnx_io.save(quantized, tmp_path / "q.onnx")
        layers = runtimes.load("onnxruntime").inspect(str(tmp_path / "q.onnx"))
        return quantized, layers, _macs.int8_share(str(tmp_path / "q.onnx"), layers)

    return build


@pytest.fixture
def layers_of(clean, tmp_path):
    """A function (placement, modules that a plan keeps, high precision) -> (Q/DQ graph, its engine's description)."""

    def build(placement, kept=(), high="fp32"):
        graph = qdq.insert(clean.copy(), amax_of(clean), placement, kept, "int8", PROBABILITIES)
        graph = passes.transform(graph, AFTER)
        onnx_io.save(graph, tmp_path / "q.onnx")
        values = {"recipe": {"compute": "int8", "high_precision": high, "batches": [1], "threads": 1}}
        values.update(identity=probe.facts("openvino"), runtime="openvino", onnx=str(tmp_path / "q.onnx"))
        values.update(engine=str(tmp_path / "e"), description=str(tmp_path / "e.json"))
        texts = {name: value if isinstance(value, str) else canonical(value) for name, value in values.items()}
        command = [forks.working_python(), ROOT / "workflow_scripts/build_engine.py"]
        done = subprocess.run(
            [*command, *(f"--{k}={v}" for k, v in texts.items())], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return graph, json.loads((tmp_path / "e.json").read_text())

    return build


def products(graph, quantized):
    """Return the names of a graph's convolutions and linear layers that read a Q/DQ pair, or read none."""
    linear = [node for node in graph.nodes if node.op in PRODUCTS and _has_weight(node)]
    return {n.name for n in linear if _is_dequantized(n.inputs[0]) == quantized}


def _is_dequantized(tensor):
    """Return whether a pair writes a tensor, which may be moved behind it."""
    while tensor.inputs and tensor.inputs[0].op in ("Reshape", "Transpose"):
        tensor = tensor.inputs[0].inputs[0]
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def _has_weight(node):
    """Return whether a product's second input is a constant, or the Q/DQ pair of one."""
    weight = node.inputs[1]
    return not weight.inputs or (
        weight.inputs[0].op == "DequantizeLinear" and not weight.inputs[0].i(0).inputs[0].inputs
    )


def int8_products(described):
    return [
        layer
        for layer in described["layers"]
        if layer["type"] in ("Convolution", "FullyConnected") and layer["precision"] == "int8"
    ]


@pytest.mark.parametrize("kept", [(), KEPT], ids=["no plan", "a plan"])
@pytest.mark.parametrize("high", ["fp32", "bf16"])
def test_what_is_quantized_is_int8_and_nothing_is_reformatted_but_the_images(clean, layers_of, kept, high):
    modules = {qdq.module_of(node) for node in clean.nodes if qdq.kind_of(node) in ("conv", "linear")}
    kept = [name for name in modules if any(name.endswith(end) for end in kept)]
    graph, described = layers_of(PLACEMENT, kept, high)
    products_kept = [
        node for node in graph.nodes if node.op in PRODUCTS and _has_weight(node) and qdq.module_of(node) in kept
    ]
    assert len(int8_products(described)) == len(products(graph, True))
    assert len(products(graph, False)) == len(products_kept) == len(kept)
    entries = len(graph.inputs)  # planar FP32 images become INT8 with channels last, in one pass
    assert described["reformats"] <= entries + 2 * len(kept), (
        "a layer that is kept may convert what it reads and writes"
    )


def test_each_rule_of_the_placement_pays(clean, layers_of):
    """Without pairs on skip connections these leave INT8 and come back: more layers, and more reformats."""
    described = layers_of(PLACEMENT)[1]
    without = layers_of([kind for kind in PLACEMENT if kind != "residual"])[1]
    assert without["reformats"] > described["reformats"]
    assert without["precision_of_layers"]["int8"] < described["precision_of_layers"]["int8"]
    without = layers_of([kind for kind in PLACEMENT if kind != "attention"])[1]
    assert without["precision_of_layers"]["int8"] < described["precision_of_layers"]["int8"], "products in INT8"
    assert described["reformats"] <= without["reformats"]


def test_onnxruntime_computes_every_quantized_product_in_int8(clean, by_onnxruntime):
    """A kernel for each linear layer, and no weight dequantized in each query, as with INT8 codes."""
    graph, layers, share = by_onnxruntime(CONFIG["graphs"]["ort"])
    integer = [layer["name"] for layer in layers if layer["type"] == "MatMulIntegerToFloat"]
    assert len(integer) == len(products(graph, True)) == sum(qdq.kind_of(node) == "linear" for node in clean.nodes)
    assert share > 0.5
    _, before, less = by_onnxruntime({"placement": PLACEMENT, "passes": [], "activations": "int8"})
    assert less < share and sum(layer["type"] == "DequantizeLinear" for layer in before) > 10


def test_macs_are_those_that_plans_weigh(clean, tmp_path):
    onnx_io.save(clean, tmp_path / "clean.onnx")
    network = simulate.Network(clean)
    values = network.tensors(torch.zeros(1, 3, *clean.inputs[0].shape[2:]))
    expected = {name: count for name, count in node_groups.Costs(network, values).macs.items() if count}
    assert _macs.macs_of(tmp_path / "clean.onnx") == expected


def test_macs_of_attention_as_one_node_are_those_of_its_products(clean, tmp_path):
    totals, names = [], ("clean", "fused")
    for name, graph in zip(names, (clean, passes.apply(clean.copy(), ["fuse_attention"]))):
        onnx_io.save(graph, tmp_path / f"{name}.onnx")
        totals.append(_macs.macs_of(tmp_path / f"{name}.onnx"))
    assert sum(totals[0].values()) == sum(totals[1].values()) and len(totals[1]) < len(totals[0])


def test_reformats_are_counted_from_the_layers(layers_of):
    described = layers_of(["conv"])[1]
    assert described["reformats"] == sum(layer["type"] in runtimes.CONVERSIONS for layer in described["layers"]) > 1


def test_the_documented_table_is_the_configured_one():
    text = (ROOT / "docs/quantization.md").read_text()
    table = text[text.index("## Placement") :].split("\n## ", 2)[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line[:1] == "|"]
    classes = [name.strip("`") for name in rows[0][1:-1]]
    placements = {name: set(row["placement"]) for name, row in CONFIG["graphs"].items() if "placement" in row}
    assert classes == list(placements), "a program of torch.export has none"
    documented = {
        name: {re.sub("`", "", row[0]) for row in rows[2:] if row[1 + n] == "yes"} for n, name in enumerate(classes)
    }
    assert documented == placements
    assert all(len(row[-1]) > 20 for row in rows[2:]), "every rule has a reason"
