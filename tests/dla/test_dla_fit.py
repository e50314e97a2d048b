"""The DLA-fit report: rules, subgraphs, MACs, bytes, the original's run on a Xavier NX, and the picture."""

import collections
import copy
import io
import itertools
import json
import random
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from test_dla_passes import LISTS
from test_graph import SIZE, deployed, trained_like
from timm.models import levit

import dla_fit
from conftest import ROOT
from core.files import UserError
from dla import fit, partition, rules
from graph import onnx_io, passes
from model import deploy, export
from reporting import dla as drawing

RULES = ROOT / "workflow_scripts" / "dla" / "rules.yaml"
KNOWN = rules.load(RULES)
XAVIER = {"batch": 1, "compute": "fp16", "generation": 1, "version": "8.5"}
ORIN = {"batch": 1, "compute": "int8", "generation": 2, "version": "10.3"}
# What fell back on the original's Xavier NX, by its log (DLA/1_only_DLA/trt.log): nodes of each kind.
FELL_BACK = {
    **{"HardSigmoid": 25, "Shape": 47, "Slice": 5, "Concat": 1, "Reshape": 75, "Transpose": 45, "MatMul": 68},
    **{"Flatten": 46, "Split": 11, "Softmax": 11, "ReduceMean": 1},
}
CANDIDATES_THERE = 102  # by the same log; we find two more, and docs/dla-placement.md says what is known of them


@pytest.fixture(scope="module")
def model():
    return trained_like()


@pytest.fixture(scope="module")
def exported(model):
    return export.to_onnx(deployed(model), SIZE)


@pytest.fixture(scope="module")
def cleaned(exported):
    return {name: passes.apply(onnx_io.from_model(exported), names) for name, names in LISTS.items()}


# The original


def one_head(network):
    """Return a LeViT without its second head: the original exported none."""
    plain = levit.Levit.__new__(levit.Levit)
    plain.__dict__ = network.__dict__
    del plain.head_dist
    return plain.eval()


@pytest.fixture(scope="module")
def original():
    """LeViT-128S as the original exported it: opset 12, batch 1, BatchNorm kept, constants folded."""
    network, buffer = one_head(trained_like({"timm": "levit_128s", "size": 224}, 1000)), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        names = {"input_names": ["input_0"], "output_names": ["output_0"]}
        torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), buffer, dynamo=False, opset_version=12, **names)
    return onnx.load_from_string(buffer.getvalue())


@pytest.fixture(scope="module")
def fate(original):
    return fit.report(onnx_io.from_model(original), KNOWN, {**XAVIER, "version": "8.4.0"}, alone=True)


def test_what_fell_back_in_the_original_falls_back_here(fate):
    assert fate["fallback"] == FELL_BACK


def test_the_original_network_has_its_749_layers(original):
    """TensorRT 8.4's parser adds layers; 12 Identities and 6 constants were in its graph alone (PyTorch 1.12)."""
    counts = collections.Counter(
        node.op_type for node in original.graph.node if node.op_type not in ("Constant", "Gather")
    )
    linear, attentions, splits = 46, 11, 9 * 3 + 2 * 2
    added = {
        "linear layers' weights, each with a Shuffle": 2 * linear,
        "Shuffles around BatchNormalization": 2 * counts["BatchNormalization"],
        "Shuffles around Softmax": 2 * counts["Softmax"],
        "constants of scaling and bias, each with a Shuffle": 4 * attentions,
        "Slices beyond the first of a Split": splits - counts["Split"],
        "the head's weight, bias, Shuffle and sum": 4,
        "the constant of Concat": 1,
        "Identities and their constants": 12 + 6,
    }
    assert sum(counts.values()) + sum(added.values()) == 749


def test_the_original_loads_the_16_subgraphs_that_it_loaded(fate):
    """Its log: the stem's four, the scaling and bias of all 11 attentions, the head."""
    found = [[name.rsplit("/", 2)[-2:] for name in subgraph["nodes"]] for subgraph in fate["subgraphs"]]
    stem = [[["linear", "Conv"]], *([[f"act{n}", "Mul"], ["linear", "Conv"]] for n in (1, 2, 3))]
    middle = [["attn", "Mul"], ["attn", "Add"]]
    assert found[:4] == stem and found[-1] == [["bn", "BatchNormalization"], ["linear", "Gemm"]]
    assert len(found[4:-1]) == 11 and all(
        [["attn", op] for _, op in nodes] == middle for nodes in relabelled(found[4:-1])
    )
    assert fate["loadables"] == fate["limit"] == 16


def relabelled(found):
    return [[[name.replace("attn_downsample", "attn"), op] for name, op in nodes] for nodes in found]


def test_candidates_of_the_original(fate):
    assert fate["candidates"] == 104 == CANDIDATES_THERE + 2
    assert fate["prediction"]["verdict"] == "does not fit"


def test_a_loadables_cost_holds_for_the_originals_other_runs():
    """It comes of one run; the two others, each with 16 loadables too, took 13.17 and 12.40 ms."""
    each, _ = fit.costs(KNOWN)
    expected = 1e3 / KNOWN["measured"]["gpu_qps"] + 16 * each
    for qps in (75.92, 80.67):
        assert abs(expected * qps / 1e3 - 1) < 0.08


# After the surgery


@pytest.mark.parametrize("name, recipe", [("dla1", XAVIER), ("dla2", ORIN)])
def test_surgery_leaves_one_subgraph_between_two_attentions(cleaned, name, recipe):
    found = fit.report(cleaned[name].copy(), KNOWN, recipe)
    attentions = sum(node.name.endswith("qk/MatMul") for node in cleaned[name].nodes)
    assert found["offered"] == found["loadables"] == attentions + 1
    on_dla = [row for row in found["nodes"] if row["runs_on"] == "dla"]
    assert {row["op"] for row in found["nodes"] if row["macs"] and row not in on_dla} == {"MatMul"}
    assert all(row["reason"] is None for row in on_dla) and all(
        row["reason"] for row in found["nodes"] if row not in on_dla
    )
    assert found["macs"]["dla"] > 0.9 * sum(found["macs"].values())


def test_surgery_against_the_exported_graph(cleaned, exported):
    before = fit.report(onnx_io.from_model(exported), KNOWN, XAVIER, alone=True)
    after = fit.report(cleaned["dla1"].copy(), KNOWN, XAVIER)
    assert after["offered"] < before["offered"] / 4 and after["macs"]["dla"] > 2 * before["macs"]["dla"]


def test_by_itself_tensorrt_would_take_islands_too(cleaned):
    alone, placed = (fit.report(cleaned["dla2"].copy(), KNOWN, ORIN, alone=a) for a in (True, False))
    assert alone["candidates"] == placed["candidates"] == alone["offered"] > 2 * placed["offered"]
    reasons = {row["reason"] for row in placed["nodes"] if row["supported"] and row["runs_on"] == "gpu"}
    assert reasons == {"it only moves data", "its subgraph has no convolution"}


def test_macs_are_those_of_the_modules(model, cleaned):
    """Counted otherwise: by hooks on the folded network, which has heads averaged as the graph has."""
    counted, folded = [], deployed(model)

    def linear(module, inputs, output):
        counted.append(output.numel() * module.in_features)

    def convolution(module, inputs, output):
        counted.append(output.numel() * module.weight[0].numel())

    def product(module, inputs, output):
        counted.append(output.numel() * inputs[0].shape[-1])

    hooks = {torch.nn.Linear: linear, torch.nn.Conv2d: convolution, deploy.MatMul: product}
    for module in folded.modules():
        if type(module) in hooks:
            module.register_forward_hook(hooks[type(module)])
    with torch.no_grad():
        folded(torch.zeros(2, 3, SIZE, SIZE))
    for graph in cleaned.values():
        assert sum(fit.report(graph.copy(), KNOWN, {**XAVIER, "batch": 2})["macs"].values()) == sum(counted)


def test_bytes_come_in_groups_of_channels():
    assert fit.bytes_of([1, 3, 8, 8], 32, "fp16") == 16 * 8 * 8 * 2
    assert fit.bytes_of([1, 3, 8, 8], 32, "int8") == 32 * 8 * 8
    assert fit.bytes_of([2, 128, 4, 4], 32, "int8") == 2 * 128 * 16 and fit.bytes_of([1, 1000], 32, "fp16") == 2016


def test_every_tensor_that_changes_sides_is_counted(cleaned):
    found = fit.report(cleaned["dla1"].copy(), KNOWN, XAVIER)
    assert {(m["from"], m["to"]) for m in found["moved"] if m["tensor"] == "input_0"} == {("gpu", 1)}
    per_side = [sum(m["bytes"] for m in found["moved"] if m[end] == "gpu") for end in ("from", "to")]
    assert per_side == [found["transfers"]["to_dla"], found["transfers"]["to_gpu"]]
    skips = [m for m in found["moved"] if "gpu" not in (m["from"], m["to"])]
    assert skips and all(m["from"] < m["to"] for m in skips), "skip connections pass attention by"
    total = sum(s["bytes_in"] for s in found["subgraphs"])
    assert total == found["transfers"]["to_dla"] + found["transfers"]["between"]


# Verdicts


def verdict(macs, loadables, batch=1, compute="fp16", generation=1, offered=None):
    counts = {"offered": offered or loadables, "loadables": loadables, "limit": 16}
    recipe = {"batch": batch, "compute": compute, "generation": generation}
    transfers = {"to_dla": 0, "to_gpu": 0}
    return fit.predict(KNOWN, recipe, counts, macs, transfers)


def test_a_verdict_is_its_arithmetic():
    """One loadable costs 0.55 ms; 1 GMAC takes the GPU between 0.29 ms (peak) and 11.4 ms (as measured, batch 1)."""
    said = {gmacs: verdict({"dla": int(gmacs * 1e9), "gpu": 0}, 1)["verdict"] for gmacs in (0.04, 0.06, 10.0)}
    assert said == {0.04: "not worth it", 0.06: "worth a trial", 10.0: "worth a trial"}, (
        "a DLA's peak is below the GPU's"
    )
    assert verdict({"dla": 0, "gpu": 5}, 0)["verdict"] == "does not fit"
    assert verdict({"dla": 10**10, "gpu": 0}, 16, offered=17)["verdict"] == "does not fit"
    found = verdict({"dla": 2 * 10**8, "gpu": 10**8}, 12, batch=1)
    sooner, later = (verdict({"dla": b * 2 * 10**8, "gpu": 10**8}, 12, batch=b) for b in even_and_before(found))
    assert sooner["verdict"] == "not worth it" and later["verdict"] == "worth a trial"
    assert "66.7 % of the MACs" in found["sentence"] and "as measured on Xavier NX" in found["sentence"]


def test_what_gains_even_at_the_gpus_peak_is_worth_it():
    faster = copy.deepcopy(KNOWN)
    faster["generations"][1]["macs_per_second"]["fp16"] = 1e14
    counts = {"offered": 1, "loadables": 1, "limit": 16}
    recipe, transfers = {"batch": 1, "compute": "fp16", "generation": 1}, {"to_dla": 0, "to_gpu": 0}
    for gmacs, said in ((1, "worth a trial"), (10, "worth it")):
        macs = {"dla": gmacs * 10**9, "gpu": 0}
        assert fit.predict(faster, recipe, counts, macs, transfers)["verdict"] == said


def even_and_before(found):
    return found["break_even_batch"] - 1, found["break_even_batch"]


def test_what_is_not_published_is_not_assumed():
    found = verdict({"dla": 10**8, "gpu": 0}, 2, compute="fp16", generation=2)
    assert found["dla_ms_at_least"] is None and "the DLA's time is unknown" in found["sentence"]


@pytest.mark.parametrize(
    "generation, version, problem",
    [
        (1, "8.4.0", None),
        (1, "8.5.2.2", None),
        (1, "10.3", "TensorRT 10.3 does not build for the DLA of Xavier"),
        (2, "10.3", None),
        (2, "10.7.0.23", None),
        (2, "10.13.3", "does not build for the DLA of Orin"),
        (2, "11.3.0", "does not build"),
        (2, "11.4.1", None),
    ],
)
def test_releases_that_build_for_a_dla(generation, version, problem):
    found = rules.release_problem(KNOWN, generation, version)
    assert found is None if problem is None else problem in found


def test_a_generation_that_nobody_described_is_an_error():
    with pytest.raises(UserError, match="DLA generation 3 has no rules: use one of 1, 2"):
        rules.release_problem(KNOWN, 3, "10.3")


# Rules


def node(op, shapes, constants=(), attrs=None, dtype=np.float32, after=None):
    """Return a node that reads tensors of some shapes, then constants; its output has the last shape."""
    tensors = [gs.Variable(f"t{n}", dtype, list(shape)) for n, shape in enumerate(shapes)]
    weights = [gs.Constant(f"c{n}", np.asarray(value)) for n, value in enumerate(constants)]
    made = gs.Node(op, "x", attrs or {}, [*tensors[:-1], *weights], [tensors[-1]])
    if after:
        gs.Node(after, "y", {}, [tensors[-1]], [gs.Variable("z", dtype, list(shapes[-1]))])
    return made


IMAGE, KERNEL = (1, 16, 8, 8), np.zeros((16, 16, 3, 3), np.float32)
TAKEN = {  # what runs on a DLA: (generation, node)
    "convolution": (
        1,
        node("Conv", [IMAGE, IMAGE], [KERNEL], {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4}),
    ),
    "sum of tokens": (1, node("Add", [(1, 196, 128)] * 3)),
    "relu6": (1, node("Clip", [IMAGE, IMAGE], [np.float32(0), np.float32(6)])),
    "pooling": (1, node("AveragePool", [IMAGE, (1, 16, 1, 1)], attrs={"kernel_shape": [8, 8]})),
    "softmax of Orin": (2, node("Softmax", [(1, 4, 196, 196)] * 2, attrs={"axis": -1})),
    "transpose of Orin": (2, node("Transpose", [(1, 4, 196, 16), (1, 4, 16, 196)], attrs={"perm": [0, 1, 3, 2]})),
    "slice of Orin": (2, node("Slice", [IMAGE, (1, 8, 8, 8)], [[0], [8], [1], [1]])),
    "head": (1, node("Gemm", [(1, 384), (1, 1000)], [np.zeros((1000, 384), np.float32)], {"transB": 1})),
}
REFUSED = {
    "a kernel of 33": (1, node("Conv", [IMAGE, IMAGE], [KERNEL], {"kernel_shape": [33, 3]})),
    "padding of 32": (1, node("Conv", [IMAGE, IMAGE], [KERNEL], {"pads": [32, 0, 0, 0]})),
    "a stride of 9": (1, node("Conv", [IMAGE, IMAGE], [KERNEL], {"strides": [9, 1]})),
    "a kernel of 9": (1, node("AveragePool", [(1, 16, 9, 9), (1, 16, 1, 1)], attrs={"kernel_shape": [9, 9]})),
    "a dimension of 9000 is": (1, node("BatchNormalization", [(1, 9000), (1, 9000)])),
    "a batch of 5000": (1, node("Add", [(5000, 16, 8, 8)] * 3)),
    "a dimension of 9000": (1, node("Mul", [(1, 16, 8, 9000)] * 3)),
    "its second operand is not a constant": (2, node("MatMul", [(1, 4, 196, 16), (1, 4, 16, 196), (1, 4, 196, 196)])),
    "3 dimensions, and 2 are needed": (1, node("MatMul", [(1, 196, 128)] * 2, [np.zeros((128, 128), np.float32)])),
    "a DLA has no layer for HardSigmoid": (2, node("HardSigmoid", [IMAGE, IMAGE])),
    "SoftMax is for newer DLAs": (1, node("Softmax", [IMAGE, IMAGE])),
    "2000 numbers along its axis, at most 1024": (2, node("Softmax", [(1, 4, 8, 2000)] * 2, attrs={"axis": 3})),
    "it moves the batch": (2, node("Transpose", [(2, 2, 8, 8)] * 2, attrs={"perm": [1, 0, 2, 3]})),
    "directly beside a Slice": (2, node("Reshape", [IMAGE, (1, 32, 4, 8)], [[0]], after="Slice")),
    "steps of [2], and only 1 is possible": (2, node("Slice", [IMAGE, IMAGE], [[0], [8], [1], [2]])),
    "an upper end of 0.5 is not within 1 to 127": (1, node("Clip", [IMAGE, IMAGE], [np.float32(0), np.float32(0.5)])),
    "only from 0": (1, node("Clip", [IMAGE, IMAGE], [np.float32(-1), np.float32(1)])),
    "int64 numbers": (2, node("Concat", [(4,), (4,), (8,)], attrs={"axis": 0}, dtype=np.int64)),
    "along axis 2, and only 1": (1, node("Concat", [IMAGE, IMAGE, (1, 16, 16, 8)], attrs={"axis": 2})),
    "one of its operands is a constant": (1, node("Min", [IMAGE, IMAGE], [np.float32(1)])),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_dla_takes(name):
    generation, taken = TAKEN[name]
    assert rules.problem(KNOWN, taken, generation, {1: "8.5", 2: "10.3"}[generation]) is None


@pytest.mark.parametrize("reason", REFUSED)
def test_what_it_does_not_take_and_why(reason):
    generation, refused = REFUSED[reason]
    assert reason in rules.problem(KNOWN, refused, generation, {1: "8.5", 2: "10.3"}[generation])


def test_every_rule_has_a_source_and_a_check_that_there_is():
    for name, entry in [*KNOWN["layers"].items(), *KNOWN["generations"].items()]:
        assert entry["source"] in KNOWN["sources"], name
        assert set(entry.get("checks", ())) <= set(rules.CHECKS), name
    others = [KNOWN[key]["source"] for key in ("limits", "releases", "channels", "movers", "measured")]
    assert set(others) <= set(KNOWN["sources"])


# Subgraphs


def network(*rows):
    """Return nodes from `name inputs outputs supported` texts: `b a,x b dla`."""
    made = []
    for row in rows:
        name, inputs, outputs, side = row.split()
        supported = side.startswith("dla")
        batch = int(side[3:] or 1) if supported else 1
        made.append(
            partition.Node(name, inputs.split(","), outputs.split(","), supported, batch, int(supported), supported)
        )
    return made


def names(nodes, found):
    return [[nodes[position].name for position in positions] for positions in found]


def test_a_way_out_and_back_in_splits_a_subgraph():
    """A skip connection past a layer of the GPU: what enters the sum depends on what left."""
    nodes = network("a x a dla", "g a g gpu", "s a,g s dla", "e s e dla")
    assert names(nodes, partition.candidates(nodes)) == [["a"], ["s", "e"]]
    nodes = network("a x a dla", "b a b dla", "s a,b s dla")
    assert names(nodes, partition.candidates(nodes)) == [["a", "b", "s"]]


def test_unlike_batches_are_kept_apart():
    nodes = network("a x a dla1", "b a b dla4", "c b c dla4")
    assert names(nodes, partition.candidates(nodes)) == [["a"], ["b", "c"]]


def test_which_are_loaded():
    nodes = network("a x a dla", "g a g gpu", "b g b dla", "c b c dla", "h c h gpu", "d h d dla")
    found = partition.candidates(nodes)
    assert partition.heaviest([len(one) for one in found], 2) == [0, 1], "the most layers first, then the first"
    heavy = [node._replace(weight={"a": 0, "b": 2, "d": 7}.get(node.name, 0)) for node in nodes]
    weights = [sum(heavy[position].weight for position in one) for one in found]
    assert partition.heaviest(weights, 1) == [2] and partition.heaviest(weights, 16) == [1, 2]


@pytest.mark.parametrize("seed", range(30))
def test_subgraphs_of_any_network(seed):
    """They cover what is supported, can be run one after another, and no two adjacent ones could be one."""
    draw = random.Random(seed)
    rows = []
    for n in range(draw.randint(5, 40)):
        inputs = ",".join(f"t{draw.randrange(n)}" for _ in range(draw.randint(1, 3))) if n else "x"
        rows.append(f"n{n} {inputs} t{n} {'dla' if draw.random() < 0.7 else 'gpu'}")
    nodes = network(*rows)
    found = partition.candidates(nodes)
    assert sorted(itertools.chain(*found)) == [n for n, node in enumerate(nodes) if node.supported]
    groups = {position: number for number, positions in enumerate(found) for position in positions}
    assert not cyclic(nodes, groups)
    written = {node.outputs[0]: n for n, node in enumerate(nodes)}
    edges = {(groups.get(written.get(t)), groups.get(n)) for n, node in enumerate(nodes) for t in node.inputs}
    for one, other in edges:
        if one is not None and other is not None and one != other:
            assert cyclic(nodes, {p: one if g == other else g for p, g in groups.items()}), (one, other)


def cyclic(nodes, groups):
    """Return whether the network has a cycle once each group is one node: by removing what depends on nothing left."""
    written = {node.outputs[0]: n for n, node in enumerate(nodes)}
    label = {n: ("group", groups[n]) if n in groups else ("node", n) for n in range(len(nodes))}
    needs = collections.defaultdict(set)
    for n, node in enumerate(nodes):
        needs[label[n]] |= {label[written[t]] for t in node.inputs if t in written} - {label[n]}
    while needs:
        free = {name for name, wanted in needs.items() if not wanted}
        if not free:
            return True
        needs = {name: wanted - free for name, wanted in needs.items() if name not in free}
    return False


# The command and its picture


@pytest.fixture(scope="module")
def files(cleaned, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dla")
    onnx_io.save(cleaned["dla1"].copy(), folder / "clean.onnx")
    onnx.save(exported, folder / "exported.onnx")
    return folder


def command(folder, recipe, target="xavier"):
    names = ["--model", "LeViT-tiny", "--precision", "fp16_dla", "--target", target]
    given = ["--clean", folder / "clean.onnx", "--onnx", folder / "exported.onnx", "--rules", RULES]
    out = ["--report", folder / "r.json", "--picture", folder / "r.svg", "--recipe", json.dumps(recipe)]
    dla_fit.command().run(dla_fit.run, [str(word) for word in [*given, *names, *out]])


def test_report_and_picture(files):
    command(files, XAVIER)
    found, first = json.loads((files / "r.json").read_text()), (files / "r.svg").read_bytes()
    assert (found["model"], found["target"], found["version"]) == ("LeViT-tiny", "xavier", "8.5")
    assert found["exported"]["offered"] > found["offered"] and "nodes" not in found["exported"]
    root = ElementTree.fromstring(first)
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    for row in found["nodes"]:
        assert any(title.startswith(f"{row['name']} ({row['op']})") for title in titles), row["name"]
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert found["prediction"]["verdict"] in texts and "LeViT-tiny fp16_dla on the DLA of xavier" in texts
    command(files, XAVIER)
    assert (files / "r.svg").read_bytes() == first, "the same inputs give the same bytes"


def test_the_picture_keeps_inside(files):
    command(files, {**XAVIER, "batch": 64})
    found = json.loads((files / "r.json").read_text())
    band = drawing.band(found)
    right = drawing.WIDTH - drawing.MARGIN + 1
    assert all(n["x"] >= drawing.MARGIN and n["x"] + band["step"] <= right for n in band["nodes"])
    assert all(drawing.SHORT <= n["height"] <= drawing.TALL for n in band["nodes"])
    assert len(band["spans"]) == found["loadables"]


def test_a_version_that_is_not_known_is_asked_for(files, capsys):
    with pytest.raises(SystemExit):
        command(files, {**XAVIER, "version": ""})
    assert "the TensorRT version of xavier is unknown" in capsys.readouterr().err


def test_a_release_without_dla_is_a_verdict(cleaned):
    found = fit.report(cleaned["dla2"].copy(), KNOWN, {**ORIN, "version": "11.3.0"})
    assert found["prediction"]["verdict"] == "does not fit" and found["candidates"] == 0
    assert {row["reason"] for row in found["nodes"]} == {"TensorRT 11.3.0 does not build for the DLA of Orin"}
