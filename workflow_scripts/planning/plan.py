"""A plan: which nodes of a clean graph are computed in a higher precision, with the evidence for each.

{"compute", "nodes_total", "nodes_high_precision", "criterion": {budget, ...}, "met", "measured": {...}, "bound": {...},
 "nodes": [{"name", "op", "precision", "evidence": {...}, "margin"}],
 "graph": [name of each node of the graph], "kinds": {kind of node: effects},
 "groups": [{"name", "nodes": [name], "effect", "macs", ...}]}

`measured` is the verdict of the simulation on the select split, `bound` that with FP16 accumulators on a part of it.
`precision` is the narrowest type that a node may be computed in. `groups` are in the order in which the plan grows
where an engine misses the criterion. A hand-made plan needs {"nodes": [name, ...]} alone.
Read on devices too: standard library only, Python 3.8.
"""

from configuration.schema import nearest
from core.files import UserError, read_json

LEFT = 0.5  # share of the noise that is left when a plan has grown
PRECISIONS = ("fp32", "fp16", "bf16")


def read(path):
    """Return a parsed plan, its nodes as objects; raise UserError where the file is none."""
    found = read_json(path)
    nodes = found.get("nodes") if isinstance(found, dict) else None
    if not isinstance(nodes, list):
        raise UserError(f'{path} is not a plan: {{"nodes": [names of nodes]}} is the least that it holds')
    return {**found, "nodes": [_node(node, path) for node in nodes]}


def _node(node, path):
    node = {"name": node} if isinstance(node, str) else node
    if not isinstance(node, dict) or not isinstance(node.get("name"), str):
        raise UserError(f"{path}: {node!r} is no node: give its name, or an object with a name")
    if node.get("precision", PRECISIONS[0]) not in PRECISIONS:
        raise UserError(f"{path}: {node['name']}: precision {node['precision']!r} is none of {', '.join(PRECISIONS)}")
    return node


def check_names(names, known, path):
    """Raise UserError naming the first of a plan's nodes that a graph does not have, with the nearest that it has."""
    for name in names:
        if name not in known:
            raise UserError(f"{path}: the graph has no node {name}: {_nearest(name, known)}")


def _nearest(name, known):
    hint = nearest(name, known)
    return hint if hint.startswith("did") else f"it has {len(known)}, {sorted(known)[0]} for one"


def names(plan, precision=None):
    """Return the set of names of a plan's nodes (those of one precision)."""
    return {node["name"] for node in plan["nodes"] if precision in (None, node["precision"])}


def modules(plan):
    """Return the set of modules of a plan's nodes: what they share with nodes of the graph's other classes."""
    return {name.rsplit("/", 1)[0] for name in names(plan)}


def grown(plan):
    """Return the plan with its next groups, or None where all are in.

    All groups without a bound of their effect (None: something overflows) are added, and of the others, in their
    order, as many as take away half of the noise that is left: the sum of the squared effects of the groups that still
    have a node in the lower precision.
    """
    present, groups = names(plan), plan.get("groups", ())
    more, enough = {}, _noise(groups, present) * LEFT
    for group in groups:
        if more and group.get("effect") is not None and _noise(groups, present | more.keys()) <= enough:
            break
        more.update({name: group["name"] for name in group["nodes"] if name not in present | more.keys()})
    return _with(plan, more) if more else None


def _noise(groups, present):
    """Return the sum of the squared effects that have a bound, of the groups that a plan's nodes do not cover."""
    effects = (group.get("effect") for group in groups if not present.issuperset(group["nodes"]))
    return sum(effect * effect for effect in effects if effect is not None)


def _with(plan, more):
    """Return the plan with more nodes: {name: group}."""
    reason = "the engine missed the criterion"
    added = [
        {
            "name": name,
            "op": None,
            "precision": plan["fallback_precision"],
            "evidence": {"reason": reason, "group": group},
            "margin": None,
        }
        for name, group in more.items()
    ]
    nodes = sorted(plan["nodes"] + added, key=lambda node: node["name"])
    return {**plan, "nodes": nodes, "nodes_high_precision": len(nodes)}
