"""A plan: the nodes of a clean graph that are computed in a higher precision, with the evidence for each.

{"compute", "nodes_total", "nodes_high_precision", "criterion": {budget, ...}, "met", "measured": {...}, "bound": {...},
 "nodes": [{"name", "op", "precision", "evidence": {...}, "margin"}],
 "graph": [name of each node of the graph], "kinds": {kind of node: effects},
 "groups": [{"name", "nodes": [name], "effect", "macs", ...}]}

`measured` is the verdict of the simulation on the select split, `bound` that with FP16 accumulators on a part of it.
`precision` is the narrowest type that a node may be computed in. `groups` are in the order in which a plan grows if an
engine misses the criterion. A plan made by hand needs only {"nodes": [name, ...]}.
Devices read plans too: standard library only, Python 3.8.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from core.files import UserError, read_json
from core.suggest import nearest
from graph.names import module_of

LEFT = 0.5  # share of the noise that may remain when a plan has grown
PRECISIONS = ("fp32", "fp16", "bf16")


def read(path: str | Path) -> dict:
    """Return a parsed plan with its nodes as objects; raise UserError if the file is not a plan."""
    plan = read_json(path)
    nodes = plan.get("nodes") if isinstance(plan, dict) else None
    if not isinstance(nodes, list):
        raise UserError(f'{path} is not a plan: it needs at least {{"nodes": [names of nodes]}}')
    return {**plan, "nodes": [_node(node, path) for node in nodes]}


def _node(node, path):
    node = {"name": node} if isinstance(node, str) else node
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise UserError(f"{path}: {node!r} is not a node: give its name, or an object with a name")
    if node.get("precision", PRECISIONS[0]) not in PRECISIONS:
        raise UserError(f"{path}: {node['name']}: precision {node['precision']!r} is none of {', '.join(PRECISIONS)}")
    return node


def check_names(names: Collection[str], known: Collection[str], path: str | Path) -> None:
    """Raise UserError naming the first of a plan's nodes that a graph does not have, with the nearest that it has."""
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            hint = hint if hint.startswith("did") else f"it has {len(known)}, {sorted(known)[0]} for one"
            raise UserError(f"{path}: the graph has no node {name}: {hint}")


def names(plan: dict, precision: str | None = None) -> set[str]:
    """Return the names of a plan's nodes, or of those with one precision."""
    return {node["name"] for node in plan["nodes"] if precision in (None, node["precision"])}


def modules(plan: dict) -> set[str]:
    """Return the modules of a plan's nodes, which they share with nodes of other graph variants."""
    return {module_of(name) for name in names(plan)}


def grown(plan: dict) -> dict | None:
    """Return the plan with its next groups, or None if it has all of them.

    All groups with an unbounded effect (None: something overflows) are added. Of the others, as many are added in their
    order as halve the remaining noise: the sum of the squared effects of the groups that still have a node in the lower
    precision.
    """
    present, groups = names(plan), plan.get("groups", ())
    more, enough = {}, _noise(groups, present) * LEFT
    for group in groups:
        if more and group.get("effect") is not None and _noise(groups, present | more.keys()) <= enough:
            break
        more.update({name: group["name"] for name in group["nodes"] if name not in present | more.keys()})
    return _with(plan, more) if more else None


def _noise(groups, present):
    """Return the sum of the squared bounded effects of the groups that a plan's nodes do not cover."""
    effects = (group.get("effect") for group in groups if not present.issuperset(group["nodes"]))
    return sum(effect * effect for effect in effects if effect is not None)


def _with(plan, more):
    """Return the plan with more nodes: {name: group}."""
    usual = {"op": None, "precision": plan["fallback_precision"], "margin": None}
    reason = "the engine missed the criterion"
    added = [{"name": name, **usual, "evidence": {"reason": reason, "group": group}} for name, group in more.items()]
    nodes = sorted(plan["nodes"] + added, key=lambda node: node["name"])
    return {**plan, "nodes": nodes, "nodes_high_precision": len(nodes)}
