"""The surgeon's passes, names, Q/DQ pairs and typed graphs, on the exported small model."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

from core.files import UserError
from graph import names, onnx_io, passes, qdq, shapes, strongly_typed
from model import deploy, export, zoo

SIZE, CLASSES = 64, 10
INT64 = np.iinfo(np.int64)
ROW = {
    "timm": "levit_128s",
    "options": {"embed_dim": [32, 48, 64], "num_heads": [2, 3, 4], "depth": [1, 1, 1]},
    "size": SIZE,
}
CPU = "fold_constants fold_shapes share_initializers drop_noops merge_reshapes merge_slices merge_transposes"
CLASS_PASSES = {"cpu": f"{CPU} merge_hardswish".split(), "gpu": f"{CPU} linear_to_gemm".split()}
EVERYTHING = ["conv", "linear", "attention", "residual"]


def trained_like(row=ROW, classes=CLASSES, seed=0):
    """Return a network whose BatchNorm, biases and attention biases are not at their neutral start."""
    torch.manual_seed(seed)
    model = zoo.create(row, classes)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
        if hasattr(module, "attention_biases"):
            torch.nn.init.normal_(module.attention_biases, 0, 1)
    return model.eval()


def deployed(model):
    """Return a network's folded form, proved on noise."""
    noise = torch.randn(8, 3, model.size, model.size, generator=torch.Generator().manual_seed(0))
    return deploy.fold(model, noise)


@pytest.fixture(scope="module")
def model():
    return trained_like()


@pytest.fixture(scope="module")
def exported(model):
    return export.to_onnx(deployed(model), SIZE)


@pytest.fixture(scope="module", params=sorted(CLASS_PASSES))
def clean(request, exported):
    return passes.apply(onnx_io.from_model(exported), CLASS_PASSES[request.param])


def logits(graph, images):
    return onnx_io.runner(onnx_io.to_model(graph.copy())).run(None, {onnx_io.INPUT: images})[0]


def images(batch, seed=1):
    return np.random.default_rng(seed).standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)


def planted(clean, module, scale=1e6):
    """Return a clean graph with one linear layer's weight scaled up and the next one's down: FP32 stays finite."""
    graph = clean.copy()
    for node in graph.nodes:
        factor = {f"{module}.ln1/Gemm": scale, f"{module}.ln2/Gemm": 1 / scale}.get(node.name)
        if factor:
            node.inputs[1].values = (node.inputs[1].values * factor).astype(np.float32)
    return graph


def amax_of(graph, activation=4.0):
    """Return a range for every quantizer of a clean graph: the weights' own, one number for activations."""
    found = {}
    for node in graph.nodes:
        for index, quantizer in qdq.SLOTS.get(qdq.kind_of(node), {}).items():
            tensor, axis = node.inputs[index], qdq.weight_axis(node)
            if quantizer == "weight_quantizer":
                others = tuple(a for a in range(tensor.values.ndim) if a != axis)
                found[f"{qdq.module_of(node)}.{quantizer}"] = np.abs(tensor.values).max(axis=others).tolist()
            else:
                found[f"{qdq.module_of(node)}.{quantizer}"] = activation
    return found


def test_folding_keeps_the_logits_and_the_model(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded, batch = deployed(model), torch.from_numpy(images(3))
    with torch.no_grad():
        assert torch.allclose(folded(batch), model(batch), atol=1e-5, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("BatchNorm" in type(module).__name__ for module in folded.modules())


def test_export_equals_pytorch_at_any_batch(model, exported):
    session = onnx_io.runner(exported)
    for batch in (1, 2, 5):
        with torch.no_grad():
            expected = model(torch.from_numpy(images(batch))).numpy()
        assert np.abs(session.run(None, {"input_0": images(batch)})[0] - expected).max() < 1e-4
    assert exported.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert exported.opset_import[0].version == 13


def test_names_are_module_paths(exported):
    found = {node.name for node in exported.graph.node}
    assert {"stem.conv1/Conv", "stages.0.blocks.0.attn.qk/MatMul", "stages.1.downsample.mlp.ln1/MatMul"} <= found
    assert len(found) == len(exported.graph.node)
    assert names.tidy("/stages/stages.0/blocks/blocks.12/attn/Add") == "stages.0.blocks.12.attn/Add"
    assert names.tidy("onnx::MatMul_3") == "onnx::MatMul_3"


def test_clean_graphs_have_half_the_nodes_and_static_reshapes(exported, clean):
    assert onnx_io.count(clean) <= onnx_io.count(onnx_io.from_model(exported)) / 2
    ops = {node.op for node in clean.nodes}
    assert not ops & {"Shape", "Gather", "Concat", "Unsqueeze", "Identity", "Constant"}
    reshapes = [node for node in clean.nodes if node.op == "Reshape"]
    assert reshapes and all(isinstance(node.inputs[1], gs.Constant) for node in reshapes)


def test_a_clean_graph_has_at_most_half_the_nodes(exported, clean):
    assert onnx_io.count(clean) <= onnx_io.count(onnx_io.from_model(exported)) / 2


@pytest.mark.slow
def test_levit_128s_has_at_most_half_its_nodes():
    row = {"timm": "levit_128s", "size": 224}
    model = export.to_onnx(deployed(trained_like(row, 10)), 224)
    before = onnx_io.count(onnx_io.from_model(model))
    for cls in sorted(CLASS_PASSES):
        assert onnx_io.count(passes.apply(onnx_io.from_model(model), CLASS_PASSES[cls])) <= before / 2, cls


def test_clean_graphs_keep_the_logits(exported, clean):
    for batch in (1, 4):
        expected = logits(onnx_io.from_model(exported), images(batch))
        assert np.abs(logits(clean, images(batch)) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_slices_end_inside_their_input(clean):
    """TensorRT 8 computes sizes in INT32, and says so of ends that are larger."""
    integers = [t for t in clean.tensors().values() if isinstance(t, gs.Constant) and t.dtype == np.int64]
    assert max(np.abs(t.values).max() for t in integers) < 2**31
    slices = [node for node in clean.nodes if node.op == "Slice"]
    assert slices and all(len(node.inputs[2].values) == 2 for node in slices)


@pytest.mark.parametrize("start, end, step", [(0, INT64.max, 2), (1, 5, 1), (-1, INT64.min, -1), (-2, -5, -2)])
def test_any_slice_keeps_its_numbers(start, end, step):
    """Free sizes are left alone; a negative step may end before the first number."""
    constants = {"starts": [0, start], "ends": [INT64.max, end], "axes": [0, 2], "steps": [1, step]}
    inputs = [gs.Constant(name, np.array(values)) for name, values in constants.items()]
    source = gs.Variable("input_0", np.float32, ["batch", 3, 7])
    target = gs.Variable("output_0", np.float32)
    slicing = gs.Node("Slice", "cut/Slice", inputs=[source, *inputs], outputs=[target])
    graph = passes.apply(gs.Graph([slicing], [source], [target], opset=13), ["merge_slices"])
    first, second = graph.nodes[0].inputs[2].values.tolist()
    assert first == INT64.max and -8 <= second <= 7


def test_linear_layers_and_skip_connections_stay_flat(exported):
    graph = passes.apply(onnx_io.from_model(exported), CLASS_PASSES["gpu"])
    skips = [node for node in graph.nodes if qdq.kind_of(node) == "residual"]
    assert skips and all(len(node.outputs[0].shape) == 2 for node in skips)
    assert any(tensor.inputs and tensor.inputs[0].op == "Gemm" for node in skips for tensor in node.inputs)


def test_a_pass_that_changes_the_logits_is_refused(exported, monkeypatch):
    def negate(graph):
        weight = graph.tensors()["stem.conv1.weight"]
        weight.values = -weight.values
        return graph

    monkeypatch.setitem(passes.PASSES, "negate", negate)
    with pytest.raises(UserError, match="pass negate changed the logits"):
        passes.apply(onnx_io.from_model(exported), ["negate"])


def test_an_unknown_pass_is_named(exported):
    with pytest.raises(UserError, match="no pass is called 'fold_constant'; there are: fold_constants"):
        passes.apply(onnx_io.from_model(exported), ["fold_constant"])


def test_the_same_graph_gives_the_same_bytes(exported, tmp_path):
    for name in ("a", "b"):
        onnx_io.save(passes.apply(onnx_io.from_model(exported), CLASS_PASSES["cpu"]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_graph_is_one_clear_error(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="x.onnx is not a valid ONNX graph"):
        onnx_io.load(tmp_path / "x.onnx")


def test_a_pass_that_changes_nothing_runs_no_graph(exported, monkeypatch):
    graph, run, models = passes.apply(onnx_io.from_model(exported), CLASS_PASSES["gpu"]), onnx_io.runner, []
    monkeypatch.setattr(onnx_io, "runner", lambda model, *args: models.append(model) or run(model, *args))
    passes.apply(graph, ["merge_slices", "drop_noops", "quantize"])
    assert len(models) == 1, "the graph that is given"
    passes.apply(graph, ["hardswish_to_clip", "quantize"])
    assert len(models) == 3


def shapes_of(graph, monkeypatch, inferred):
    """Return the shapes and types of a graph, inferred or measured; a call that would do the other fails."""
    with monkeypatch.context() as patch:
        if inferred:
            patch.setattr(shapes, "_measured", None)
        else:
            patch.setattr(shapes, "_inferred", lambda model, batch: None)
        return shapes.at_batches(graph)


def test_shapes_are_inferred_as_a_run_has_them(clean, monkeypatch):
    for graph in (clean, qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)):
        assert shapes_of(graph, monkeypatch, True) == shapes_of(graph, monkeypatch, False)


def test_shapes_that_onnx_does_not_infer_are_measured():
    """The target of a Reshape comes from a Where, whose result ONNX does not follow."""
    source, output = gs.Variable("input_0", np.float32, ["batch", 6, 4]), gs.Variable("output_0", np.float32)
    size, chosen = gs.Variable("size", np.int64), gs.Variable("chosen", np.int64)
    choice = [gs.Constant("mask", np.array([True, False, True])), size, gs.Constant("other", np.array([0, 6, 0]))]
    nodes = [
        gs.Node("Shape", "s", inputs=[source], outputs=[size]),
        gs.Node("Where", "w", inputs=choice, outputs=[chosen]),
        gs.Node("Reshape", "r", inputs=[source, chosen], outputs=[output]),
    ]
    graph = shapes.annotate(gs.Graph(nodes, inputs=[source], outputs=[output], opset=13))
    assert graph.outputs[0].shape == ["batch", 6, 4] and graph.tensors()["chosen"].shape == [3]


def test_symbolic_shapes_tell_the_batch_from_the_rest():
    assert shapes.symbolic([[2, 8, 4], [3, 8, 4]]) == ["batch", 8, 4]
    assert shapes.symbolic([[32, 4], [48, 4]]) == ["batch*16", 4]
    assert shapes.target(["batch*16", 4]) == [-1, 4] and shapes.target(["batch", "batch"]) is None


def test_noops_and_pairs_go():
    source = gs.Variable("input_0", np.float32, ["batch", 3, 4, 4])
    tensors = [gs.Variable(f"t{n}", np.float32) for n in range(5)]
    output = gs.Variable("output_0", np.float32, ["batch", 48])
    shape = gs.Constant("shape", np.array([-1, 3, 4, 4], dtype=np.int64))
    flat = gs.Constant("flat", np.array([-1, 48], dtype=np.int64))
    nodes = [
        gs.Node("Identity", "i", inputs=[source], outputs=[tensors[0]]),
        gs.Node("Transpose", "a", {"perm": [0, 2, 3, 1]}, [tensors[0]], [tensors[1]]),
        gs.Node("Transpose", "b", {"perm": [0, 3, 1, 2]}, [tensors[1]], [tensors[2]]),
        gs.Node("Reshape", "c", inputs=[tensors[2], shape], outputs=[tensors[3]]),
        gs.Node("Relu", "r", inputs=[tensors[3]], outputs=[tensors[4]]),
        gs.Node("Reshape", "d", inputs=[tensors[4], flat], outputs=[output]),
    ]
    graph = gs.Graph(nodes, inputs=[source], outputs=[output], opset=13)
    cleaned = passes.apply(graph, ["merge_reshapes", "drop_noops"])
    assert [node.op for node in cleaned.nodes] == ["Relu", "Reshape"]


def test_quantized_graph_keeps_the_compute_nodes(clean):
    before = {(node.name, node.op) for node in clean.nodes}
    quantized = qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)
    added = [n for n in quantized.nodes if (n.name, n.op) not in before]
    assert {n.op for n in added} == {"QuantizeLinear", "DequantizeLinear"}
    assert before <= {(node.name, node.op) for node in quantized.nodes}


def test_every_named_input_is_quantized_once(clean):
    quantized = qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)
    for node in quantized.nodes:
        for index in qdq.SLOTS.get(qdq.kind_of(node), {}):
            assert node.inputs[index].inputs[0].op == "DequantizeLinear", node.name
        if node.op in ("Conv", "Gemm") and len(node.inputs) > 2:
            assert isinstance(node.inputs[2], gs.Constant) and node.inputs[2].dtype == np.float32
    scales = [n.inputs[1].name for n in quantized.nodes if n.op == "QuantizeLinear"]
    assert len(scales) == len(set(scales))


def test_a_scale_is_amax_over_127_per_output_channel(clean):
    ranges = amax_of(clean)
    quantized = qdq.insert(clean.copy(), ranges, ["linear"])
    for node in quantized.nodes:
        if qdq.module_of(node) == "stages.0.blocks.0.mlp.ln1" and node.op in ("MatMul", "Gemm"):
            scale = node.inputs[1].inputs[0].inputs[1].values
            expected = np.float32(np.asarray(ranges["stages.0.blocks.0.mlp.ln1.weight_quantizer"]) / 127)
            assert np.array_equal(scale, expected) and node.inputs[1].inputs[0].attrs["axis"] == 1


def test_uint8_codes_are_int8_codes_plus_128(exported):
    plain = passes.apply(onnx_io.from_model(exported), [*CLASS_PASSES["cpu"], "gemm_to_matmul"])
    assert not any(node.op == "Gemm" for node in plain.nodes)
    both = [qdq.insert(plain.copy(), amax_of(plain), EVERYTHING, (), kind) for kind in ("int8", "uint8")]
    assert np.array_equal(*(logits(graph, images(2)) for graph in both))
    kinds = {(node.inputs[2].dtype, len(node.inputs[2].shape)) for node in both[1].nodes if node.op == "QuantizeLinear"}
    assert kinds == {(np.dtype("uint8"), 0), (np.dtype("int8"), 1)}, "of activations, and of weights per channel"


def test_probabilities_may_have_twice_the_steps(clean):
    both = [qdq.insert(clean.copy(), amax_of(clean), EVERYTHING, (), "int8", kind) for kind in ("int8", "uint8")]
    pairs = [[n for n in graph.nodes if n.op == "QuantizeLinear" and n.inputs[0].inputs] for graph in both]
    known = [{n.name: n for n in several if n.inputs[0].inputs[0].op == "Softmax"} for several in pairs]
    assert known[0].keys() == known[1].keys() != set()
    for name, coarse in known[0].items():
        fine = known[1][name]
        assert fine.inputs[2].values.dtype == np.uint8 and fine.inputs[2].values == 0
        assert fine.inputs[1].values == pytest.approx(coarse.inputs[1].values * 127 / 255, rel=1e-6)
    others = [{n.name: (n.inputs[2].dtype, float(n.inputs[1].values.max())) for n in several} for several in pairs]
    assert all(others[0][name] == others[1][name] for name in others[0].keys() - known[0].keys())


def test_passes_accept_quantized_graphs(exported):
    plain = passes.apply(onnx_io.from_model(exported), ["fold_constants", "fold_shapes", "drop_noops"])
    quantized = qdq.insert(plain, amax_of(plain), EVERYTHING)
    expected = logits(quantized, images(2))
    pairs = sum(n.op == "QuantizeLinear" for n in quantized.nodes)
    for names_ in CLASS_PASSES.values():
        again = passes.apply(quantized.copy(), names_[1:])
        assert sum(n.op == "QuantizeLinear" for n in again.nodes) == pairs
        assert np.abs(logits(again, images(2)) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("stem.conv2.input_quantizer"), "stem.conv2.input_quantizer has no calibrated range"),
        (lambda r: r.update({"stem.conv2.input_quantizer": float("nan")}), "conv2.input_quantizer has the range nan"),
        (lambda r: r.update({"stem.conv2.input_quantizer": 1e-40}), "conv2.input_quantizer has the range 1e-40"),
        (lambda r: r.update({"stem.conv2.input_quantizer": 1e60}), "conv2.input_quantizer has the range 1e.60"),
        (lambda r: r.update({"stem.conv2.weight_quantizer": [1.0, 2.0]}), "has 2 ranges for 8 output channels"),
    ],
)
def test_bad_ranges_are_named(clean, change, message):
    ranges = amax_of(clean)
    change(ranges)
    with pytest.raises(UserError, match=message):
        qdq.insert(clean.copy(), ranges, EVERYTHING)


def test_fp16_graph_is_typed_throughout_and_close(clean):
    expected = logits(clean, images(2))
    half = strongly_typed.cast(clean.copy(), "fp16")
    assert {(node.name, node.op) for node in clean.nodes} <= {(node.name, node.op) for node in half.nodes}
    model = onnx.shape_inference.infer_shapes(onnx_io.to_model(half), strict_mode=True)
    floats = {v.type.tensor_type.elem_type for v in model.graph.value_info} - {onnx.TensorProto.INT64}
    assert floats == {onnx.TensorProto.FLOAT16}
    assert [v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)] == [1, 1]
    assert np.abs(logits(half, images(2)) - expected).max() < 0.02 * np.abs(expected).max()


def test_a_weight_beyond_fp16_is_named(clean):
    graph = clean.copy()
    conv = next(node for node in graph.nodes if node.op == "Conv")
    conv.inputs[1].values = conv.inputs[1].values.copy()
    conv.inputs[1].values[0, 0, 0, 0] = 7e4
    with pytest.raises(UserError, match=f"weight {conv.inputs[1].name} reaches 7e[+]04"):
        strongly_typed.cast(graph, "fp16")


def test_fp16_beside_qdq_leaves_the_pairs_in_fp32(clean):
    quantized = qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)
    expected = logits(quantized, images(2))
    half = strongly_typed.cast(quantized.copy(), "fp16")
    for node in half.nodes:
        if node.op in strongly_typed.PAIR:
            assert node.inputs[1].dtype == np.float32
        elif node.op != "Cast":
            dtypes = {np.dtype(tensor.dtype) for tensor in [*node.inputs, *node.outputs]}
            assert dtypes <= {np.dtype(np.float16), np.dtype(np.int64)}
    assert np.abs(logits(half, images(2)) - expected).max() < 0.2 * np.abs(expected).max()
    with pytest.raises(UserError, match="strongly typed graph in bf8"):
        strongly_typed.cast(quantized, "bf8")


def test_casts_are_at_boundaries_one_for_a_tensor(clean):
    names_ = [node.name for node in clean.toposort().nodes]
    for kept in (set(names_), set(), set(names_[:40]), set(names_[::7])):
        mixed = strongly_typed.cast(clean.copy(), "fp16", kept)
        casts = [node for node in mixed.nodes if node.op == "Cast"]
        sides = [(cast.inputs[0].name, cast.attrs["to"]) for cast in casts]
        assert len(sides) == len(set(sides))
        for cast in casts:
            before, after = cast.inputs[0].inputs, cast.outputs[0].outputs
            wide = not before or before[0].name in kept
            assert all((reader.name in kept) != wide for reader in after) and (after or not wide)
        model = onnx.shape_inference.infer_shapes(onnx_io.to_model(mixed), strict_mode=True)
        onnx.checker.check_model(model, full_check=True)


def test_split_linear_layers_keep_the_numbers_and_the_scales_of_their_channels(exported):
    """On a clean graph to the last bit or nearly; on a quantized one, but for roundings that flip."""
    apart = [name for name in CLASS_PASSES["cpu"] if name != "merge_transposes"]
    before, after = passes.around_pairs([*apart, "quantize", "split_linear"])
    clean = passes.apply(onnx_io.from_model(exported), before)
    splits = sum(node.op == "Split" for node in clean.nodes)
    quantized = qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)
    for graph, tolerance in ((clean, 1e-5), (quantized, 0.05)):
        expected, apart = logits(graph, images(2)), passes.transform(graph.copy(), after)
        assert splits and not any(node.op == "Split" for node in apart.nodes)
        assert np.abs(logits(apart, images(2)) - expected).max() <= tolerance * np.abs(expected).max()
    products = [node for node in apart.nodes if qdq.module_of(node).endswith((".qk", ".av")) and node.op == "MatMul"]
    assert products and all(node.i(side).op == "DequantizeLinear" for node in products for side in (0, 1))


def test_merged_pairs_keep_the_codes_and_there_is_one_for_each_split(exported):
    """Roundings may flip: the weights that a pair reads are scaled."""
    clean = passes.apply(onnx_io.from_model(exported), [*CLASS_PASSES["cpu"], "merge_transposes"])
    quantized = qdq.insert(clean, amax_of(clean), EVERYTHING)
    expected, count = logits(quantized, images(2)), pairs(quantized)
    merged = passes.transform(quantized.copy(), ["merge_pairs"])
    assert np.abs(logits(merged, images(2)) - expected).max() <= 0.05 * np.abs(expected).max()
    splits = [node for node in merged.nodes if node.op == "Split"]
    assert splits and count - pairs(merged) == sum(len(split.outputs) - 1 for split in splits)
    for split in splits:
        assert {reader.op for part in split.outputs for reader in part.outputs} <= {"Transpose", "MatMul"}
    again = passes.transform(merged.copy(), ["merge_pairs"])
    assert pairs(again) == pairs(merged)


def test_products_of_one_module_are_scaled_back_by_nodes_of_different_names(exported):
    """As in EfficientFormer, whose attention has no modules for its products."""
    clean = passes.apply(onnx_io.from_model(exported), CLASS_PASSES["cpu"])
    quantized = qdq.insert(clean, amax_of(clean), EVERYTHING)
    for node in quantized.nodes:
        node.name = node.name.replace(".qk/MatMul", "/MatMul").replace(".av/MatMul", "/MatMul_1")
    found = [node.name for node in passes.transform(quantized, ["merge_pairs"]).nodes]
    assert len(found) == len(set(found)) and "stages.0.blocks.0.attn/Mul_" in found


def pairs(graph):
    return sum(node.op == "QuantizeLinear" for node in graph.nodes)


@pytest.mark.parametrize("module", ["qk", "av"])
def test_parts_without_a_pair_stay_as_they_are(exported, module):
    clean = passes.apply(onnx_io.from_model(exported), CLASS_PASSES["cpu"])
    excluded = {name for name in map(qdq.module_of, clean.nodes) if name.endswith(f".{module}")}
    quantized = qdq.insert(clean, amax_of(clean), EVERYTHING, excluded)
    expected = logits(quantized, images(2))
    merged = passes.transform(quantized.copy(), ["merge_pairs"])
    assert excluded and pairs(merged) == pairs(quantized)
    assert (logits(merged, images(2)) == expected).all()


def test_hardswish_is_lifted_with_its_pair_to_heads_of_64_channels_alone(exported):
    clean = passes.apply(onnx_io.from_model(exported), CLASS_PASSES["cpu"])
    graph = qdq.insert(clean.copy(), amax_of(clean), EVERYTHING)
    lifted = passes.apply(graph.copy(), ["lift_hardswish"])
    joined = [node for node in lifted.nodes if node.op == "Transpose" and "Transpose_3" in node.name]
    wide = [node.inputs[0].shape[-1] % 64 == 0 for node in joined]
    assert set(wide) == {True, False} and pairs(lifted) == pairs(graph)
    assert [node.i().op == "DequantizeLinear" for node in joined] == wide
    assert onnx_io.to_model(passes.transform(clean.copy(), ["lift_hardswish"])) == onnx_io.to_model(clean)


def test_a_network_that_no_onnx_file_holds_is_refused():
    with torch.device("meta"):
        large = torch.nn.Linear(30_000, 20_000)
    with pytest.raises(UserError, match="2.4 GB of weights, an ONNX file holds 2 GB"):
        export.to_onnx(large, SIZE)
