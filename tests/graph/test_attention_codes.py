"""Attention nodes that take and give codes of INT8: what their bodies compute, and which nodes become such."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from test_attention import FUSED, fused_nodes
from test_graph import SIZE, amax_of, deployed, images, logits, trained_like

from graph import attention, attention_body, attention_codes, onnx_io, passes, qdq
from model import export

SCALES = {"q_scale": 1 / 32, "k_scale": 3 / 64, "v_scale": 1 / 40, "result_scale": 1 / 50}
SIZES = {"heads": 2, "key_dim": 16, "val_dim": 32, "queries": 4, "keys": 9}
PLACEMENT = ["conv", "linear", "attention", "residual"]


def computed(op, values):
    bias = np.random.default_rng(0).standard_normal((2, SIZES["queries"], SIZES["keys"])).astype(np.float32)
    inputs = [gs.Variable(f"input_{n}", v.dtype, v.shape) for n, v in enumerate(values)]
    output = gs.Variable("output_0", np.int8 if op.endswith(("Int8", "Int8Out")) else np.float32)
    used = {key for key in SCALES if f"@{key}" in attention_body._text(op)}
    attributes = {**SIZES, **{key: SCALES[key] for key in used}, "bias": gs.Constant("bias", bias)}
    node = gs.Node(op, "attn", attributes, inputs, [output], domain=attention.DOMAIN)
    graph = attention.declare(gs.Graph([node], inputs, [output], opset=13))
    return onnx_io.runner(onnx_io.to_model(graph)).run(None, {f"input_{n}": v for n, v in enumerate(values)})[0]


@pytest.mark.parametrize("suffix", ["Int8In", "Int8Out", "Int8"])
@pytest.mark.parametrize("image", ["", "Image"])
def test_codes_are_worth_their_scales(suffix, image):
    drawn = np.random.default_rng(1)
    kv, q = (drawn.integers(-128, 128, (3, n, w), dtype=np.int8) for n, w in ((9, 96), (4, 32)))
    worth = np.tile(np.repeat([SCALES["k_scale"], SCALES["v_scale"]], [16, 32]), 2)
    values = [kv * worth.astype(np.float32), q * np.float32(SCALES["q_scale"])]

    def given(tokens):
        images = [t.transpose(0, 2, 1)[..., None] for t in tokens]
        return [np.ascontiguousarray(t) for t in (images if image else tokens)]

    op = "LevitAttentionDownsample" + image
    expected = computed(op, given(values))
    got = computed(op + suffix, given([kv, q] if suffix != "Int8Out" else values))
    if suffix == "Int8In":
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    else:
        wanted = np.clip(expected / SCALES["result_scale"], -128, 127)
        assert got.dtype == np.int8 and np.abs(got - wanted).max() <= 0.501


@pytest.fixture(scope="module")
def clean():
    return passes.apply(onnx_io.from_model(export.to_onnx(deployed(trained_like()), SIZE)), FUSED)


def ranges(clean):
    """Return a range for every quantizer, other ones for queries, keys and values."""
    parts = {"qk.a_quantizer": 1.0, "qk.b_quantizer": 3.0, "av.b_quantizer": 4.0}
    modules = [qdq.module_of(node) for node in fused_nodes(clean)]
    return {**amax_of(clean), **{f"{module}.{name}": value for module in modules for name, value in parts.items()}}


def chained(clean, excluded=(), placement=PLACEMENT):
    amax = ranges(clean)
    quantized = qdq.insert(clean.copy(), amax, placement, excluded, chained=True)
    return attention_codes.take_codes(quantized, amax, placement, excluded)


def kinds(graph):
    return {qdq.module_of(node): node.op.partition("Image")[2] for node in fused_nodes(graph)}


def test_every_tensor_between_layers_is_codes(clean):
    graph = chained(clean)
    assert set(kinds(graph).values()) == {"Int8"} and len(kinds(graph)) == 5
    for node in fused_nodes(graph):
        assert {t.inputs[0].op for t in node.inputs} == {"QuantizeLinear"}
        assert {n.op for n in node.outputs[0].outputs} == {"DequantizeLinear"}
    activations = [
        n.inputs[0].name for n in graph.nodes if n.op == "QuantizeLinear" and not isinstance(n.inputs[0], gs.Constant)
    ]
    assert len(activations) == len(set(activations)), "a tensor has one scale"


def test_layers_of_few_channels_stay_out(clean):
    """An INT8 tensor packs 32 channels: of LeViT's stem the first two convolutions read 3 and 16."""
    narrow = {n.name for n in clean.nodes if n.op == "Conv" and n.inputs[1].shape[1] < qdq.PACKED}
    left = {n.name for n in chained(clean).nodes if n.op == "Conv" and isinstance(n.inputs[1], gs.Constant)}
    assert "stem.conv1/Conv" in narrow and left == narrow


FIRST = "stages.0.blocks.0.attn"


@pytest.mark.parametrize(
    "excluded, kind",
    [
        ((f"{FIRST}.qk",), "Int8Out"),
        ((f"{FIRST}.qkv",), "Int8Out"),
        ((f"{FIRST}.av", f"{FIRST}.proj.ln"), ""),
        ((f"{FIRST}.proj.ln",), "Int8In"),
    ],
)
def test_what_a_plan_excludes_is_no_codes(clean, excluded, kind):
    found = kinds(chained(clean, excluded))
    assert found.pop(FIRST) == kind and set(found.values()) == {"Int8"}


def test_without_attention_in_the_placement_the_nodes_stay(clean):
    assert set(kinds(chained(clean, placement=["conv", "linear", "residual"])).values()) == {""}


def test_queries_keys_and_values_use_all_codes(clean):
    """The layer before an attention scales their channels, so that codes by their own scales are what it computed."""
    graph = chained(clean, placement=["attention"])
    node = next(n for n in fused_nodes(graph) if qdq.module_of(n) == FIRST)
    plain = next(n for n in fused_nodes(clean) if qdq.module_of(n) == FIRST)
    sizes = [node.attrs["key_dim"], node.attrs["key_dim"], node.attrs["val_dim"]]
    scales = [node.attrs[f"{part}_scale"] for part in "qkv"]
    assert scales == pytest.approx([1 / 127, 3 / 127, 4 / 127])
    worth = np.tile(np.repeat(scales, sizes), node.attrs["heads"]).astype(np.float32)[:, None, None]
    codes, expected = (seen(g, n.inputs[0]) for g, n in ((graph, node), (clean, plain)))
    inside = np.abs(expected) < 126 * worth
    assert inside.mean() > 0.9 and (np.abs(codes * worth - expected) <= 0.501 * worth)[inside].all()


def seen(graph, tensor):
    graph = graph.copy()
    graph.outputs = [graph.tensors()[tensor.name]]
    return logits(graph.cleanup(), images(2)).astype(np.float32)


def test_logits_stay_near(clean):
    expected, got = (logits(graph, images(4)) for graph in (clean, chained(clean)))
    assert np.abs(got - expected).max() <= 0.25 * np.ptp(expected)
