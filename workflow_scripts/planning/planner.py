"""A plan from a clean graph: ranges and effects on calibration images, then the cheapest set that meets a criterion."""

import collections

import numpy as np
import torch

from core import progress
from core.command import log
from core.files import UserError
from data import preprocess
from graph import qdq
from planning import criterion, node_groups, ranges, sensitivity, simulate
from planning import plan as plans
from planning.search import Search

CHUNK = 16  # images that a thread computes at once
RANGE_IMAGES = 256  # of the calib split: what ranges are taken from
EFFECT_IMAGES = 32  # of them: what effects are measured on
BOUND_IMAGES = 64  # of the select split: what a plan is also judged on with FP16 accumulators
SEARCH_IMAGES = 512  # of the select split: what a search looks at; what it finds is judged on the whole split
NEXT = {"fp16": "fp32", "int8": "fp16"}  # what a node that leaves a precision may be computed in at the narrowest

# calibration, images: uint8 [N, size, size, 3]; labels int64 and reference float32 [N, classes] of images;
# model: {"mean", "std"}
Inputs = collections.namedtuple("Inputs", "calibration images labels reference model")


def plan(graph, amax, placement, recipe, inputs, given=None, workers=1):
    """Return a plan (planning/plan.py) for a clean graph.

    amax: {quantizer: range} for INT8, else None; placement: kinds of nodes that are quantized; recipe: {compute,
    budget, criterion?}; given: path of a plan made by hand, which is checked and judged but not changed.
    Raises UserError for a precision that is not simulated, and where the hand-made plan names what the graph lacks.
    """
    if recipe["compute"] not in NEXT:
        raise UserError(f"fallback: {recipe['compute']} has no plans, only {' and '.join(NEXT)}: set it to none")
    planner = Planner(simulate.Network(graph), amax, placement, recipe, inputs, workers)
    return planner.given(given) if given else planner.searched()


class Planner:
    """A network with what is measured of it."""

    def __init__(self, network, amax, placement, recipe, inputs, workers):
        self.network, self.inputs, self.workers = network, inputs, workers
        self.compute, self.next = recipe["compute"], NEXT[recipe["compute"]]
        self.criterion = {"budget": recipe["budget"], **recipe.get("criterion", {})}
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
        """Return the plan with the cheapest set of nodes that meets the criterion, or the best that was found."""
        kinds = self._members(node_groups.kinds(self.network))
        members = {**self._members(node_groups.blocks(self.network)), **kinds}
        self._measure(members)
        forced = [name for name, found in self.ranges.items() if found["overflows"]]
        search = Search(self._verdict(SEARCH_IMAGES), self.costs, forced)
        order = search.ordered({name: self.effects[name]["effect"] for name in members}, members)
        wanted = search.smallest(order, members)
        if wanted:
            wanted = self._single_nodes(search, sorted({node for group in wanted for node in members[group]}))
        kept = search.best() if wanted is None else search.forced | set(wanted)
        kept, measured = self._grown(kept, [members[name] for name in order])
        self._measure({name: [name] for name in sorted(kept) if name not in self.effects}, within=0)
        blocks = [(name, members[name]) for name in order if name not in kinds]
        return self._described(kept, measured, search, blocks, {name: self.effects[name] for name in sorted(kinds)})

    def given(self, path):
        """Return the plan in a file, checked against the graph, with evidence and a verdict of its own."""
        made = plans.read(path)
        names = {node.name for node in self.network.nodes}
        plans.check_names([node["name"] for node in made["nodes"]], names, path)
        kept = {node["name"]: node.get("precision", self.next) for node in made["nodes"]}
        self._measure({name: [name] for name in sorted(kept)})
        return self._described(kept, self._verdict(None)(frozenset(kept)), None, [], {})

    # Measuring

    def _members(self, found):
        """Return the groups with those of their nodes alone that the precision would change."""
        treated = set(self.treated)
        members = {name: [node for node in nodes if node in treated] for name, nodes in found.items()}
        return {name: nodes for name, nodes in members.items() if nodes}

    def _measure(self, members, within=RANGE_IMAGES):
        """Add the effects of groups of nodes, and the ranges of all nodes where `within` images are asked for."""
        if not members:
            return
        images = self.inputs.calibration
        near, far = images[:EFFECT_IMAGES], images[EFFECT_IMAGES:within] if within else images[:0]
        passes = len(members) * len(self.treatments) * len(self._chunks(near))
        with progress.bar(passes, f"effects of {self.compute}", "pass") as bar:
            tensors, effects = sensitivity.measure(
                self.network, self._chunks(near), members, self.treatments, self.workers, bar
            )
        self.effects.update(effects)
        if within:
            more = simulate.each(lambda c: ranges.of_chunk(self.network.tensors(c())), self._chunks(far), self.workers)
            self.ranges = ranges.of_nodes(self.network, ranges.merged([*tensors, *more], self.network.constants))

    def _chunks(self, images):
        return [lambda s=start: self._normalized(images[s : s + CHUNK]) for start in range(0, len(images), CHUNK)]

    def _normalized(self, images):
        model = self.inputs.model
        return torch.from_numpy(preprocess.normalize(np.asarray(images), model["mean"], model["std"]))

    def _bound(self, kept):
        """Return the verdict with sums that are rounded to FP16 as they grow, the worst that kernels do, or None."""
        return self._verdict(BOUND_IMAGES, "bound")(frozenset(kept)) if "bound" in self.treatments else None

    def _verdict(self, count, treatment="effect"):
        """Return a function (kept node names) -> verdict on the first `count` images of the select split."""
        chunks, labels = self._chunks(self.inputs.images[:count]), self.inputs.labels[:count]

        def judge(kept):
            treated = dict.fromkeys((n for n in self.treated if n not in kept), self.treatments[treatment])
            run = lambda chunk: self.network.logits({self.network.input: chunk()}, treated).numpy()  # noqa: E731
            logits = np.concatenate(simulate.each(run, chunks, self.workers))
            found = criterion.verdict(logits, labels, self.inputs.reference[:count], self.criterion)
            log.info("%d nodes kept: top-1 %.2f %%, slack %.2f points", len(kept), found["top1"], found["slack"])
            return found

        return judge

    # Choosing

    def _single_nodes(self, search, nodes):
        """Return the nodes of the chosen groups that are needed."""
        members = {name: [name] for name in nodes if name not in search.forced}
        self._measure(members, within=0)
        return search.smallest(search.ordered({n: self.effects[n]["effect"] for n in members}, members), members)

    def _grown(self, kept, order):
        """Return (nodes, verdict on the whole split): groups are added while a set that met the search misses there."""
        judge, kept = self._verdict(None), frozenset(kept)
        measured = judge(kept)
        for nodes in order:
            if measured["met"] or len(self.inputs.images) <= SEARCH_IMAGES:
                break
            kept |= set(nodes)
            measured = judge(kept)
        return kept, measured

    def _described(self, kept, measured, search, blocks, kinds):
        named = kept if isinstance(kept, dict) else {name: self._precision(name) for name in kept}
        ops = {node.name: node.op for node in self.network.nodes}
        nodes = [
            {"name": name, "op": ops[name], "precision": named[name], **self._reasons(name, search)}
            for name in ops
            if name in named
        ]
        return {
            "compute": self.compute,
            "fallback_precision": self.next,
            "nodes_total": len(ops),
            "nodes_high_precision": len(nodes),
            "macs_high_precision": self._share(named),
            "conversions": len(self.costs.casts(set(named))),
            "criterion": self.criterion,
            "met": measured["met"],
            "measured": measured,
            "bound": self._bound(named),
            "nodes": nodes,
            "graph": list(ops),
            "kinds": kinds,
            "groups": [
                {"name": n, "nodes": nodes, **self.effects[n], "macs": self._share(nodes)} for n, nodes in blocks
            ],
        }

    def _precision(self, name):
        """Return the narrowest type for a node that is kept: what overflows FP16 needs more than that."""
        return "fp32" if self.ranges[name]["overflows"] else self.next

    def _share(self, names):
        """Return the share of the graph's multiply-accumulates that some nodes have."""
        return round(sum(self.costs.macs[name] for name in names) / max(sum(self.costs.macs.values()), 1), 6)

    def _reasons(self, name, search):
        """Return {evidence, margin}: bits below FP16's largest number, or points of slack that are left without it."""
        found = {key: value for key, value in self.ranges[name].items() if key != "overflows"}
        overflows = self.ranges[name]["overflows"]
        reason = "given" if search is None else "overflow" if overflows else "criterion"
        margin = found["headroom"] if overflows else search.margins.get(name) if search else None
        return {"evidence": {"reason": reason, **found, **self.effects.get(name, {})}, "margin": margin}
