"""LeViT's attention as one node: what its body computes, where the pass finds it, and that the logits stay."""

import subprocess

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
import yaml
from test_graph import CLASSES, SIZE, amax_of, deployed, images, logits, trained_like

from conftest import ROOT
from core.files import UserError
from graph import attention, attention_body, onnx_io, passes, qdq, surgery
from model import deploy, export, zoo
from planning import simulate
from runtimes import _plugins

FUSED = yaml.safe_load((ROOT / "config.yaml").read_text())["graphs"]["gpu_fused"]["passes"]
TOKENS = [*FUSED[: FUSED.index("fuse_attention") + 1], "linear_to_gemm"]
BEFORE = FUSED[: FUSED.index("fuse_attention")]


@pytest.fixture(scope="module")
def exported():
    return export.to_onnx(deployed(trained_like()), SIZE)


def fused_nodes(graph):
    return [node for node in graph.nodes if node.domain == attention.DOMAIN]


@pytest.mark.parametrize("names", [FUSED, TOKENS], ids=["images", "tokens"])
def test_each_attention_is_one_node_and_the_logits_stay(exported, names):
    expected = logits(onnx_io.from_model(exported), images(3))
    graph = passes.apply(onnx_io.from_model(exported), names)
    assert len(fused_nodes(graph)) == 5 and not {"Softmax", "MatMul", "Split"} & {n.op for n in graph.nodes}
    assert np.abs(logits(graph, images(3)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("names", [FUSED, TOKENS], ids=["images", "tokens"])
def test_nodes_keep_their_modules(exported, names):
    plain = passes.apply(onnx_io.from_model(exported), BEFORE)
    modules = {qdq.module_of(node) for node in plain.nodes if node.op in ("Conv", "Gemm", "MatMul")}
    graph = passes.apply(onnx_io.from_model(exported), names)
    kept = {qdq.module_of(node) for node in graph.nodes if node.op in ("Conv", "Gemm")}
    assert {m for m in modules if not m.endswith((".qk", ".av"))} == kept
    found = {qdq.module_of(node) for node in fused_nodes(graph)}
    assert found == {m.rsplit(".", 1)[0] for m in modules if m.endswith(".qk")}


@pytest.mark.slow
@pytest.mark.parametrize("timm", ["levit_128s", "levit_256", "levit_conv_128s"])
def test_published_networks_are_fused(timm):
    model = zoo.create({"timm": timm, "size": 224}, CLASSES).eval()
    for module in model.modules():
        if hasattr(module, "attention_biases"):
            torch.nn.init.normal_(module.attention_biases)
    count = sum(hasattr(module, "attention_biases") for module in model.modules())
    graph = passes.apply(onnx_io.from_model(export.to_onnx(deployed(model), 224)), FUSED)
    assert len(fused_nodes(graph)) == count and len(graph.functions) == 2


def test_the_file_has_the_bodies_and_gives_the_same_bytes(exported, tmp_path):
    for name in "ab":
        onnx_io.save(passes.apply(onnx_io.from_model(exported), FUSED), tmp_path / name)
    onnx_io.save(onnx_io.load(tmp_path / "a"), tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert {f.name for f in onnx_io.load(tmp_path / "a").functions} == {
        n.op for n in fused_nodes(onnx_io.load(tmp_path / "a"))
    }


def modules_of_attention():
    return [m for m in deployed(trained_like()).modules() if isinstance(m, deploy.Attention)]


@pytest.mark.parametrize("image", [False, True], ids=["tokens", "images"])
@pytest.mark.parametrize("number", range(5))
def test_a_node_computes_what_the_folded_module_does(number, image):
    """From its products to the projection's linear layer, with images of one row and of several."""
    module, batch = modules_of_attention()[number], 3
    heads, queries, keys = module.bias.shape
    own = module.subsamples
    widths = [module.num_heads * ((1 if own else 2) * module.key_dim + module.val_dim)]
    widths += [module.num_heads * module.key_dim] if own else []
    tokens = [torch.randn(batch, n, w) for n, w in zip((keys, queries), widths)]
    seen = []
    module.proj[-1].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().numpy()))
    if own:
        module.kv, module.q = (torch.nn.Identity() for _ in range(2))
        module.kv.forward, module.q.forward = lambda _: tokens[0], lambda _: tokens[1]
    else:
        module.qkv = torch.nn.Identity()
        module.qkv.forward = lambda _: tokens[0]
    module(torch.empty(batch, keys, 1))
    expected = seen[0]
    given = [t.transpose(1, 2).reshape(batch, -1, 1, t.shape[1]) if image else t for t in tokens]
    got = run_node(module, [t.numpy() for t in given], image)
    got = got.reshape(batch, got.shape[1], -1).swapaxes(1, 2) if image else got
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def run_node(module, values, image):
    heads, queries, keys = module.bias.shape
    sizes = {"heads": heads, "key_dim": module.key_dim, "val_dim": module.val_dim, "queries": queries, "keys": keys}
    bias = gs.Constant("bias", module.bias.detach().numpy())
    op = attention.OPS[len(values) - 1] + (attention_body.IMAGE if image else "")
    inputs = [gs.Variable(f"input_{n}", np.float32, list(v.shape)) for n, v in enumerate(values)]
    output = gs.Variable("output_0", np.float32)
    node = gs.Node(op, "attn", {**sizes, "bias": bias}, inputs, [output], domain=attention.DOMAIN)
    graph = attention.declare(gs.Graph([node], inputs, [output], opset=13))
    session = onnx_io.runner(onnx_io.to_model(graph))
    found = session.run(None, {f"input_{n}": v for n, v in enumerate(values)})[0]
    simulated = simulate.compute(simulate.Node(node), [torch.from_numpy(v) for v in values])[0].numpy()
    assert simulated.shape == found.shape and np.abs(simulated - found).max() <= 1e-5 * np.abs(found).max()
    return found


CHANGES = {
    "scores read twice": lambda n: n["qk"].outputs[0].outputs.append(n["softmax"]),
    "no hardswish": lambda n: n["gate"].attrs.update(alpha=0.2),
    "softmax over queries": lambda n: n["softmax"].attrs.update(axis=2),
    "keys not transposed so": lambda n: n["keys"].attrs.update(perm=[0, 1, 2, 3]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_no_such_attention_is_left_as_it_is(exported, change):
    graph = passes.apply(onnx_io.from_model(exported), BEFORE)
    softmax = next(n for n in graph.nodes if n.name == "stages.0.blocks.0.attn/Softmax")
    qk = surgery.producer(surgery.producer(softmax.inputs[0], "Add").inputs[0], "MatMul")
    gate = next(n for n in graph.nodes if n.name == "stages.0.blocks.0.attn.proj.act/HardSigmoid")
    nodes = {"softmax": softmax, "qk": qk, "gate": gate, "keys": surgery.producer(qk.inputs[1], "Transpose")}
    attention.shapes.annotate(graph)
    assert attention._match(softmax)
    CHANGES[change](nodes)
    assert not attention._match(softmax)


def test_a_quantized_attention_is_left_and_quantized_products_are_not_in_the_way(exported):
    plain = passes.apply(onnx_io.from_model(exported), BEFORE)
    for placement, count in ((["conv", "linear"], 5), (["conv", "linear", "attention"], 0)):
        quantized = qdq.insert(plain.copy(), amax_of(plain), placement)
        graph = passes.apply(quantized, ["fuse_attention"])
        assert len(fused_nodes(graph)) == count


def test_another_network_is_left_as_it_is():
    source, output = gs.Variable("input_0", np.float32, ["batch", 3, 4, 4]), gs.Variable("output_0", np.float32)
    node = gs.Node("Softmax", "s", {"axis": -1}, [source], [output])
    graph = passes.apply(gs.Graph([node], [source], [output], opset=13), ["fuse_attention"])
    assert [n.op for n in graph.nodes] == ["Softmax"] and not graph.functions


# The plugin's library


@pytest.fixture
def named(monkeypatch):
    def name(path):
        _plugins.load.cache_clear()
        monkeypatch.setenv(_plugins.PLUGIN, path)

    yield name
    _plugins.load.cache_clear()


def test_a_library_that_is_not_there_is_named(named, tmp_path):
    named(str(tmp_path / "none.so"))
    with pytest.raises(UserError, match=r"^LEVIT_PLUGIN=.*none.so cannot be loaded .*: delete it and run again"):
        _plugins.load()


def test_a_library_is_loaded_once(named, tmp_path):
    """Loading is what registers a plugin: this library leaves a file."""
    mark, source, target = tmp_path / "loaded", tmp_path / "x.c", tmp_path / "x.so"
    text = f'__attribute__((constructor)) void f(void) {{ fputs("x", fopen("{mark}", "a")); fflush(0); }}'
    source.write_text(f"#include <stdio.h>\n{text}\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(target)], check=True)
    named(str(target))
    _plugins.load()
    _plugins.load()
    assert mark.read_text() == "x"


@pytest.mark.parametrize(
    "reason",  # of TensorRT 8.5.3.1, on an H100
    [
        'Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        "Cannot deserialize plugin since corresponding IPluginCreator not found in Plugin Registry",
    ],
)
def test_a_missing_plugin_has_its_own_remedy(reason):
    assert "LEVIT_PLUGIN" in _plugins.remedy(reason, "delete it") and _plugins.remedy("it is empty", "x") == "x"


def test_a_file_without_bodies_is_the_same_graph(exported, tmp_path):
    onnx_io.save(passes.apply(onnx_io.from_model(exported), FUSED), tmp_path / "fused")
    whole = onnx.load(tmp_path / "fused")
    bare = onnx.load_from_string(_plugins.without_bodies((tmp_path / "fused").read_bytes()))
    assert len(whole.functions) == 2 and not bare.functions
    del whole.functions[:]
    assert bare == whole
