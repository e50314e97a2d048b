"""Plans of precisions: the simulation against ONNX Runtime, planted overflows, the cheapest set, plans made by hand."""

import copy
import json
import types

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from test_graph import CLASS_PASSES, EVERYTHING, SIZE, amax_of, deployed, planted, trained_like

from core.files import UserError
from graph import onnx_io, passes, qdq, strongly_typed
from model import export
from planning import criterion, node_groups, plan, planner, ranges, search, simulate, verify

MODEL = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
FP16 = {"compute": "fp16", "budget": 0.5}
INT8 = {"compute": "int8", "budget": 0.5}
LINEAR = "stages.1.blocks.0.mlp"
PLANTED = {f"{LINEAR}.{name}" for name in ("ln1/Gemm", "act/HardSigmoid", "act/Mul", "ln2/Gemm")}


def cleaned(seed=0, cls="gpu"):
    return passes.apply(onnx_io.from_model(export.to_onnx(deployed(trained_like(seed=seed)), SIZE)), CLASS_PASSES[cls])


@pytest.fixture(scope="module")
def clean():
    return cleaned()


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(3).integers(0, 256, (48, SIZE, SIZE, 3)).astype(np.uint8)


def normalized(pixels):
    from data import preprocess

    return preprocess.normalize(pixels, MODEL["mean"], MODEL["std"])


def inputs_of(graph, pixels, wrong=0):
    """Return Inputs whose labels are FP32's own answers, but for the first `wrong` of them."""
    reference = run(graph, normalized(pixels))
    labels = reference.argmax(axis=1)
    labels[:wrong] = (labels[:wrong] + 1) % reference.shape[1]
    return planner.Inputs(pixels, verify.Select(pixels, labels, reference, MODEL))


def run(graph, images):
    return onnx_io.runner(onnx_io.to_model(graph.copy())).run(None, {onnx_io.INPUT: images})[0]


def simulated(graph, images, treatment, names=None):
    network = simulate.Network(graph.copy())
    treated = [node.name for node in network.nodes if names is None or node.name in names]
    with torch.no_grad():
        return network.logits({network.input: torch.from_numpy(images)}, dict.fromkeys(treated, treatment)).numpy()


def close_as_noise(one, other, exact, alike):
    """Assert that two noisy results have the same noise: as large, and alike."""
    a, b = (one - exact).ravel(), (other - exact).ravel()
    assert np.linalg.norm(a) > 0 and 0.75 < np.linalg.norm(a) / np.linalg.norm(b) < 1.33
    assert np.corrcoef(a, b)[0, 1] > alike, np.corrcoef(a, b)


def referenced(graph, images):
    """Return the logits of ONNX's reference evaluator, which computes in numpy's float16 where a graph says so."""
    return ReferenceEvaluator(onnx_io.to_model(graph.copy())).run(None, {onnx_io.INPUT: images})[0]


# The simulation


@pytest.mark.parametrize("cls", sorted(CLASS_PASSES))
def test_fp32_is_what_onnx_runtime_computes(cls, pixels):
    graph = cleaned(cls=cls)
    expected = run(graph, normalized(pixels))
    assert np.abs(simulated(graph, normalized(pixels), None, ()) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_fp16_is_what_the_reference_computes_of_the_typed_graph(clean, pixels, share):
    images, names = normalized(pixels[:8]), [node.name for node in clean.nodes]
    kept = set(names[: int(share * len(names))])
    half, exact = strongly_typed.cast(clean.copy(), "fp16", kept), run(clean, images)
    found = simulated(clean, images, simulate.Half(), set(names) - kept)
    close_as_noise(found, referenced(half, images), exact, 0.3)
    # ONNX Runtime has no FP16 kernels here and leaves out roundings between nodes: its error is a lower bound
    assert 0 < np.linalg.norm(run(half, images) - exact) < 1.2 * np.linalg.norm(found - exact)


def test_one_fp16_node_is_exactly_its_rounded_inputs_weights_and_output():
    gemm = {"op": "Gemm", "attrs": {}, "name": "n", "inputs": ["x", "w", "b"], "constant": [False, True, True]}
    node = types.SimpleNamespace(**gemm)
    x, w, b = torch.randn(5, 64), torch.randn(64, 7), torch.randn(7)
    exact = (x.half().double() @ w.half().double() + b.half().double()).half().float()
    found = simulate.Half()(node, [x, w, b])[0]
    assert (found - exact).abs().max() <= 2**-10 * exact.abs().max() and torch.equal(found, found.half().float())
    blocked = simulate.Half(blocked=True)(node, [x, w, b])[0]
    assert (blocked - exact).norm() > (found - exact).norm()


def test_int8_is_what_onnx_runtime_computes_of_the_qdq_graph(clean, pixels):
    images, ranges_ = normalized(pixels), amax_of(clean)
    quantized = run(qdq.insert(clean.copy(), ranges_, EVERYTHING), images)
    close_as_noise(simulated(clean, images, simulate.Quantized(ranges_)), quantized, run(clean, images), 0.9)


def test_only_what_a_treatment_changes_is_computed_again(clean, pixels):
    network, images = simulate.Network(clean.copy()), torch.from_numpy(normalized(pixels[:4]))
    last = [node.name for node in network.nodes][-3:]
    with torch.no_grad():
        known = network.tensors(images)
        treatments = dict.fromkeys(last, simulate.Half())
        assert torch.equal(network.logits(known, treatments), network.logits({network.input: images}, treatments))
        assert torch.equal(network.logits(known, {}), known[network.output])


# Ranges


def test_ranges_of_planted_values(clean, pixels):
    found = planner.plan(planted(clean, LINEAR), None, EVERYTHING, FP16, inputs_of(planted(clean, LINEAR), pixels))
    overflowing = next(node for node in found["nodes"] if node["name"] == f"{LINEAR}.ln1/Gemm")["evidence"]
    shrunk = next(node for node in found["nodes"] if node["name"] == f"{LINEAR}.ln2/Gemm")["evidence"]
    assert overflowing["max_abs"] > ranges.HIGHEST and overflowing["headroom"] < 0 and overflowing["effect"] is None
    assert shrunk["subnormal"] > 0.99


def test_activations_that_are_not_finite_are_named(clean, pixels):
    graph = clean.copy()
    weight = next(node for node in graph.nodes if node.op == "Conv").inputs[1]
    weight.values = np.full_like(weight.values, np.nan)
    with pytest.raises(UserError, match="activation stem.conv1/Conv.* is not finite in FP32"):
        planner.plan(graph, None, EVERYTHING, FP16, inputs_of(clean, pixels))


# The cheapest set


def test_nothing_is_kept_where_fp16_is_enough(clean, pixels):
    found = planner.plan(clean.copy(), None, EVERYTHING, FP16, inputs_of(clean, pixels))
    assert found["met"] and found["nodes"] == [] and found["nodes_high_precision"] == 0
    assert found["bound"]["num_images"] == found["measured"]["num_images"] == len(pixels)
    assert found["nodes_total"] == len(found["graph"]) == onnx_io.count(clean)
    blocks = found["groups"]
    assert sorted(name for group in blocks for name in group["nodes"]) == sorted(found["graph"])
    assert all(group["effect"] > 0 and group["bound"] > 0 for group in blocks)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_exactly_the_planted_overflow_is_kept(pixels, seed):
    graph = planted(cleaned(seed), LINEAR)
    found = planner.plan(graph.copy(), None, EVERYTHING, FP16, inputs_of(graph, pixels))
    assert {node["name"] for node in found["nodes"]} == PLANTED and found["met"]
    assert {(node["precision"], node["evidence"]["reason"]) for node in found["nodes"]} == {("fp32", "overflow")}
    assert all(node["margin"] == node["evidence"]["headroom"] < 1 for node in found["nodes"])
    images = normalized(pixels)
    with pytest.raises(UserError, match="beyond FP16's 65504: keep its node in fp32"):
        strongly_typed.cast(graph.copy(), "fp16")
    half = run(strongly_typed.cast(graph.copy(), "fp16", plan.names(found)), images)
    assert np.abs(half - run(graph, images)).max() < 0.02 * np.abs(half).max()


def test_a_tight_tolerance_keeps_single_nodes_each_needed(clean, pixels):
    inputs = inputs_of(clean, pixels[:32])
    free = simulated(clean, normalized(pixels[:32]), simulate.Half())
    tolerance = float(np.abs(free - inputs.select.reference).max()) * 0.6
    recipe = {**FP16, "criterion": {"tolerance": tolerance}}
    found = planner.plan(clean.copy(), None, EVERYTHING, recipe, inputs)
    kept = plan.names(found)
    assert found["met"] and 0 < len(kept) < found["nodes_total"] / 2
    assert all(node["evidence"]["reason"] == "criterion" and node["margin"] < 0 for node in found["nodes"])
    assert planner.plan(clean.copy(), None, EVERYTHING, recipe, inputs, workers=3) == found, "threads change nothing"


def test_a_budget_that_nothing_meets_gives_the_best(clean, pixels):
    inputs = inputs_of(clean, pixels)
    exact = inputs.select.reference
    reference = exact + np.random.default_rng(0).normal(0, 5, exact.shape).astype(np.float32)
    inputs = inputs._replace(select=inputs.select._replace(reference=reference))
    recipe = {**FP16, "criterion": {"agreement": 100.0}}
    found = planner.plan(clean.copy(), None, EVERYTHING, recipe, inputs)
    assert not found["met"] and found["measured"]["slack"] < 0


def test_int8_leaves_out_what_costs_the_budget(clean, pixels):
    ranges_ = amax_of(clean)
    inputs = inputs_of(clean, pixels)
    usual = simulated(clean, normalized(pixels), simulate.Quantized(dict(ranges_))) - inputs.select.reference
    ranges_["head.input_quantizer"] = 1e4  # so wide that all values round to zero
    recipe = {**INT8, "criterion": {"tolerance": 1.2 * float(np.abs(usual).max())}}
    found = planner.plan(clean.copy(), ranges_, EVERYTHING, recipe, inputs)
    assert "head/Gemm" in plan.names(found) and found["met"]
    quantized = qdq.insert(clean.copy(), ranges_, EVERYTHING, plan.modules(found))
    for node in quantized.nodes:
        if node.name in plan.names(found):
            assert not any(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in node.inputs)
    assert set(plan.names(found)) <= {n.name for n in clean.nodes if qdq.kind_of(n)}
    assert all(node["precision"] == "fp16" for node in found["nodes"])


class Additive:
    """Costs and verdicts of a made-up network, whose slack is lost node by node."""

    losses = {"a": 5.0, "b": 3.0, "c": 0.5, "d": 0.25, "e": 0.0}
    prices = {"a": 10, "b": 1, "c": 1, "d": 1, "e": 1}

    def of(self, names):
        return sum(self.prices[name] for name in names)

    def more(self, names, added):
        return self.of(set(added) - set(names))

    def verdict(self, budget):
        def judge(kept):
            slack = budget - sum(loss for name, loss in self.losses.items() if name not in kept)
            return {"slack": slack, "met": slack >= 0}

        return judge


@pytest.mark.parametrize(
    "budget, kept", [(9.0, []), (4.0, ["a"]), (6.0, ["b"]), (0.8, ["a", "b"]), (0.3, ["a", "b", "c"])]
)
def test_the_cheapest_groups(budget, kept):
    network, members = Additive(), {name: [name] for name in "abcde"}
    found = search.Search(network.verdict(budget), network)
    order = found.ordered(Additive.losses, members)
    assert sorted(found.smallest(order, members)) == list(kept)
    assert all(found.margins[name] < 0 for name in kept)


def test_all_groups_may_not_be_enough():
    network, members = Additive(), {name: [name] for name in "abcd"}
    found = search.Search(network.verdict(-1.0), network)
    assert found.smallest(found.ordered(Additive.losses, members), members) is None
    assert found.best() >= {"a", "b", "c", "d"}


def test_costs_count_products_and_conversions(clean, pixels):
    network = simulate.Network(clean.copy())
    values = network.tensors(torch.from_numpy(normalized(pixels[:1])))
    costs = node_groups.Costs(network, values)
    conv = next(node for node in network.nodes if node.name == "stem.conv1/Conv")
    assert costs.macs[conv.name] == values[conv.outputs[0]].numel() * 3 * 3 * 3
    gemm = next(node for node in network.nodes if node.name == f"{LINEAR}.ln1/Gemm")
    assert costs.macs[gemm.name] == values[gemm.outputs[0]].numel() * network.constants[gemm.inputs[1]].shape[0]
    everything = {node.name for node in network.nodes}
    assert costs.casts(everything) == [] and costs.casts(set()) == [network.input, network.output]
    assert len(costs.casts(PLANTED)) == 4 and costs.more(PLANTED, PLANTED) == 1
    assert costs.of(everything) > costs.of(PLANTED) > costs.of(set())


# The criterion


def test_verdict():
    labels = np.array([0, 1, 0, 1])
    reference = np.array([[2, 1], [1, 2], [2, 1], [1, 2]], dtype=np.float32)
    other = reference.copy()
    other[0] = [1.5, 1.75]
    found = criterion.verdict(other, labels, reference, {"budget": 30.0, "agreement": 70.0, "tolerance": 0.3})
    assert found["top1"] == 75.0 and found["agreement_with_fp32"] == 75.0 and found["outside_tolerance"] == 12.5
    assert found["slack"] == -12.5 and not found["met"]
    assert criterion.verdict(other, labels, reference, {"budget": 30.0})["slack"] == 5.0
    other[1] = np.nan
    broken = criterion.verdict(other, labels, reference, {"budget": 100.0})
    assert broken["slack"] == criterion.WORST and not broken["met"]


# Plans made by hand, and as files


def test_a_plan_made_by_hand_is_judged_and_kept(clean, pixels, tmp_path):
    path, names = tmp_path / "mine.json", sorted(PLANTED)
    path.write_text(json.dumps({"nodes": [names[0], {"name": names[1], "precision": "fp32"}]}))
    found = planner.plan(clean.copy(), None, EVERYTHING, FP16, inputs_of(clean, pixels), str(path))
    assert plan.names(found) == set(names[:2]) and found["met"] and found["nodes_high_precision"] == 2
    assert [node["evidence"]["reason"] for node in found["nodes"]] == ["given", "given"]
    assert plan.grown(found) is None


@pytest.mark.parametrize(
    "text, message",
    [
        (f'{{"nodes": ["{LINEAR}.ln1/Gem"]}}', f"has no node {LINEAR}.ln1/Gem: did you mean {LINEAR}.ln1/Gemm"),
        ('{"nodes": ["%%%"]}', "the graph has no node %%%: it has "),
        ('{"nodes": [{"nam": "x"}]}', "is not a node: give its name"),
        ('{"nodes": [{"name": "x", "precision": "fp64"}]}', "precision 'fp64' is none of fp32, fp16, bf16"),
        ('{"layers": []}', "is not a plan"),
        ("{", "is not JSON"),
    ],
)
def test_what_is_no_plan(clean, pixels, tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises(UserError, match=message):
        planner.plan(clean.copy(), None, EVERYTHING, FP16, inputs_of(clean, pixels[:2]), str(tmp_path / "mine.json"))


@pytest.mark.parametrize(
    "effects, steps",
    [
        ((0.9, 0.1, 0.1), [{"a", "b"}, {"a", "b", "c", "d"}, {"a", "b", "c", "d", "e"}]),
        ((0.1, 0.1, 0.9), [{"a", "b", "c", "d", "e"}]),
        ((None, 0.1, None), [{"a", "b", "c", "d", "e"}]),
    ],
)
def test_a_plan_grows_until_half_of_the_noise_is_gone(effects, steps):
    members = (("one", ["a", "b"]), ("two", ["c", "d"]), ("three", ["e"]))
    grows = [{"name": n, "nodes": m, "effect": effect} for (n, m), effect in zip(members, effects)]
    nodes = [{"name": "a", "precision": "fp32"}]
    start = {"fallback_precision": "fp32", "nodes": nodes, "groups": grows, "nodes_high_precision": 1}
    before, found = copy.deepcopy(start), []
    grown = plan.grown(start)
    while grown:
        found.append(plan.names(grown))
        assert grown["nodes_high_precision"] == len(grown["nodes"])
        grown = plan.grown(grown)
    assert found == steps and start == before


def test_a_precision_without_plans(clean, pixels):
    with pytest.raises(UserError, match="fallback: bf16 has no plans, only fp16 and int8"):
        planner.plan(clean.copy(), None, EVERYTHING, {"compute": "bf16", "budget": 1}, inputs_of(clean, pixels[:2]))


def test_int8_plans_reach_the_other_classes_by_module(clean, pixels):
    graph = cleaned(cls="cpu")
    ranges_ = {**amax_of(graph), **amax_of(clean)}
    quantized = qdq.insert(graph.copy(), ranges_, EVERYTHING, {f"{LINEAR}.ln1"})
    node = next(n for n in quantized.nodes if n.name == f"{LINEAR}.ln1/MatMul")
    assert not any(t.inputs and t.inputs[0].op == "DequantizeLinear" for t in node.inputs)
    with pytest.raises(UserError, match=f"the plan names the module {LINEAR}.ln3, which the graph lacks: did you mean"):
        qdq.insert(graph.copy(), ranges_, EVERYTHING, {f"{LINEAR}.ln3"})
