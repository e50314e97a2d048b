"""Make a plan: measure ranges and effects on calibration images, then search for the cheapest set of nodes."""

import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs
import torch

from core import progress
from core.command import log
from core.files import UserError
from data import preprocess
from graph import qdq
from planning import criterion, node_groups, ranges, sensitivity, simulate
from planning import plan as plans
from planning.search import Search
from planning.verify import Select

CHUNK = 16  # images that a thread computes at once
RANGE_IMAGES = 256  # of the calib split, for ranges
EFFECT_IMAGES = 32  # the first of those, for effects
BOUND_IMAGES = 64  # of the select split, for the verdict with FP16 accumulators
SEARCH_IMAGES = 512  # of the select split, for the search; the result is judged on the whole split
NEXT = {"fp16": "fp32", "int8": "fp16"}  # {precision: the narrowest type of a node that leaves it}


class Inputs(NamedTuple):
    """The data that a plan is measured on."""

    calibration: np.ndarray  # uint8 [N, size, size, 3] of the calib split
    select: Select


def plan(
    graph: gs.Graph,
    amax: Mapping | None,
    placement: Collection[str],
    recipe: Mapping,
    inputs: Inputs,
    manual: str | Path | None = None,
    workers: int = 1,
) -> dict:
    """Return a plan (planning/plan.py) for a clean graph.

    amax: {quantizer: range} for INT8, else None; placement: kinds of nodes that are quantized; recipe: {compute,
    budget, criterion?}; manual: path of a plan made by hand, which is checked and judged but not changed.
    Raises UserError for a precision that is not simulated, and if the manual plan names nodes that the graph lacks.
    """
    if recipe["compute"] not in NEXT:
        raise UserError(f"fallback: {recipe['compute']} has no plans, only {' and '.join(NEXT)}: set it to none")
    planner = _Planner(simulate.Network(graph), amax, placement, recipe, inputs, workers)
    return planner.judged(manual) if manual else planner.searched()


class _Planner:
    """A network and its measurements; arguments as of `plan`."""

    def __init__(self, network, amax, placement, recipe, inputs, workers):
        self.network, self.inputs, self.workers = network, inputs, workers
        self.compute, self.next = recipe["compute"], NEXT[recipe["compute"]]
        self.criterion = {"budget": recipe["budget"], **recipe.get("criterion", {})}
        self.treatments: dict[str, Callable]
        if amax is None:
            self.treatments = {"effect": simulate.Half(), "bound": simulate.Half(blocked=True)}
            self.treated = [node.name for node in network.nodes]
        else:
            self.treatments = {"effect": simulate.Quantized(amax)}
            self.treated = [n.name for n in network.nodes if qdq.slots(n.kind, amax, placement)]
        self.costs = node_groups.Costs(network, network.tensors(self._normalized(inputs.calibration[:1])))
        self.ranges, self.effects = {}, {}

    # The two ways to a plan

    def searched(self):
        """Return the plan with the cheapest set of nodes that meets the criterion, or the best set of the search."""
        kinds = self._members(node_groups.kinds(self.network))
        members = {**self._members(node_groups.blocks(self.network)), **kinds}
        self._measure(members)
        forced = [name for name, node in self.ranges.items() if node["overflows"]]
        search = Search(self._verdict(SEARCH_IMAGES), self.costs, forced)
        order = search.ordered({name: self.effects[name]["effect"] for name in members}, members)
        groups = search.smallest(order, members)
        if groups:
            groups = self._single_nodes(search, sorted({node for group in groups for node in members[group]}))
        nodes = search.best() if groups is None else search.forced | set(groups)
        nodes, measured = self._grown(search, nodes, [members[name] for name in order])
        self._measure({name: [name] for name in sorted(nodes) if name not in self.effects}, within=0)
        precisions = {name: "fp32" if self.ranges[name]["overflows"] else self.next for name in nodes}
        blocks = [(name, members[name]) for name in order if name not in kinds]
        return self._described(precisions, measured, search, blocks, {n: self.effects[n] for n in sorted(kinds)})

    def judged(self, path):
        """Return the manual plan in a file, checked against the graph, with evidence and a verdict of its own."""
        nodes = plans.read(path)["nodes"]
        plans.check_names([node["name"] for node in nodes], {node.name for node in self.network.nodes}, path)
        precisions = {node["name"]: node.get("precision", self.next) for node in nodes}
        self._measure({name: [name] for name in sorted(precisions)})
        return self._described(precisions, self._verdict(None)(frozenset(precisions)), None, [], {})

    # Measuring

    def _members(self, groups):
        """Return the groups with only the nodes whose numbers the precision changes."""
        treated = set(self.treated)
        members = {name: [node for node in nodes if node in treated] for name, nodes in groups.items()}
        return {name: nodes for name, nodes in members.items() if nodes}

    def _measure(self, members, within=RANGE_IMAGES):
        """Measure the effects of groups of nodes, and the ranges of all nodes on `within` images unless that is 0."""
        if not members:
            return
        images = self.inputs.calibration
        near, far = images[:EFFECT_IMAGES], images[EFFECT_IMAGES:within] if within else images[:0]
        chunks = self._chunks(near)
        passes, title = len(members) * len(self.treatments) * len(chunks), f"effects of {self.compute}"
        with progress.bar(passes, title, "pass") as bar:
            tensors, effects = sensitivity.measure(self.network, chunks, members, self.treatments, self.workers, bar)
        self.effects.update(effects)
        if within:
            more = simulate.each(self._ranges, self._chunks(far), self.workers)
            merged = ranges.merged([*tensors, *more], self.network.constants)
            self.ranges = {node.name: ranges.of_node(node, merged) for node in self.network.nodes}

    def _ranges(self, chunk):
        return ranges.of_chunk(self.network.activations(chunk()))

    def _chunks(self, images):
        return [lambda s=start: self._normalized(images[s : s + CHUNK]) for start in range(0, len(images), CHUNK)]

    def _normalized(self, images):
        model = self.inputs.select.model
        return torch.from_numpy(preprocess.normalize(np.asarray(images), model["mean"], model["std"]))

    def _verdict(self, count, treatment="effect"):
        """Return a function (nodes in the higher precision) -> verdict on the first `count` select images."""
        select = self.inputs.select
        chunks, labels, reference = self._chunks(select.images[:count]), select.labels[:count], select.reference[:count]

        def run(treated, chunk):
            return self.network.logits({self.network.input: chunk()}, treated).numpy()

        def judge(nodes):
            treated = dict.fromkeys((n for n in self.treated if n not in nodes), self.treatments[treatment])
            logits = np.concatenate(simulate.each(functools.partial(run, treated), chunks, self.workers))
            verdict = criterion.verdict(logits, labels, reference, self.criterion)
            outcome = (len(nodes), verdict["top1"], verdict["slack"])
            log.info("%d nodes in the higher precision: top-1 %.2f %%, slack %.2f points", *outcome)
            return verdict

        return judge

    # Choosing

    def _single_nodes(self, search, nodes):
        """Return the nodes of the chosen groups that are needed."""
        members = {name: [name] for name in nodes if name not in search.forced}
        self._measure(members, within=0)
        order = search.ordered({name: self.effects[name]["effect"] for name in members}, members)
        return search.smallest(order, members)

    def _grown(self, search, nodes, order):
        """Return (nodes, verdict on the whole split); add groups while the set accepted by the search misses there."""
        nodes = frozenset(nodes)
        if len(self.inputs.select.images) <= SEARCH_IMAGES:
            return nodes, search.verdict(nodes)
        judge = self._verdict(None)
        measured = judge(nodes)
        for group in order:
            if measured["met"]:
                break
            nodes |= set(group)
            measured = judge(nodes)
        return nodes, measured

    def _described(self, precisions, measured, search, blocks, kinds):
        """Return the plan; precisions: {node: its narrowest type}; search: None for a manual plan."""
        ops = {node.name: node.op for node in self.network.nodes}
        bound = self._verdict(BOUND_IMAGES, "bound") if "bound" in self.treatments else lambda nodes: None
        return {
            "compute": self.compute,
            "fallback_precision": self.next,
            "nodes_total": len(ops),
            "nodes_high_precision": len(precisions),
            "macs_high_precision": self._share(precisions),
            "conversions": len(self.costs.casts(precisions)),
            "criterion": self.criterion,
            "met": measured["met"],
            "measured": measured,
            "bound": bound(frozenset(precisions)),
            "nodes": [
                {"name": name, "op": op, "precision": precisions[name], **self._reasons(name, search)}
                for name, op in ops.items()
                if name in precisions
            ],
            "graph": list(ops),
            "kinds": kinds,
            "groups": [{"name": n, "nodes": b, **self.effects[n], "macs": self._share(b)} for n, b in blocks],
        }

    def _share(self, names):
        """Return the share of the graph's multiply-accumulates that some nodes have."""
        return round(sum(self.costs.macs[name] for name in names) / max(sum(self.costs.macs.values()), 1), 6)

    def _reasons(self, name, search):
        """Return {evidence, margin}: bits below FP16's largest number, or points of slack without the node."""
        measured = {key: value for key, value in self.ranges[name].items() if key != "overflows"}
        overflows = self.ranges[name]["overflows"]
        reason = "given" if search is None else "overflow" if overflows else "criterion"
        margin = measured["headroom"] if overflows else search.margins.get(name) if search else None
        return {"evidence": {"reason": reason, **measured, **self.effects.get(name, {})}, "margin": margin}
