"""The DLA-fit report of a graph: the nodes that a DLA would run, their subgraphs, transfers, and whether it can pay.

Nothing is built: verdicts come from the rules in rules.yaml, subgraphs from partition.py.
"""

import collections
import math

import onnx_graphsurgeon as gs

from dla import partition, rules
from graph import shapes

SIZES = {"fp16": 2, "int8": 1}  # bytes of a number
CONVOLUTIONS = ("Conv", "Gemm", "MatMul")


def report(graph: gs.Graph, known: dict, recipe: dict, alone: bool = False) -> dict:
    """Return the report of a graph.

    known: of rules.load; recipe: {batch, compute, generation, version}; alone: place layers as TensorRT does by itself,
    else as runtimes/_dla.py does: no subgraph without a convolution, and no layer that only moves data. `candidates`
    counts the subgraphs that TensorRT finds by itself, `offered` those to be loaded, `loadables` those that are loaded.
    """
    graph = shapes.fix(graph.fold_constants(fold_shapes=False).cleanup().toposort(), recipe["batch"])
    limit, movers = known["limits"]["loadables"], () if alone else known["movers"]["ops"]
    rows = [_row(node, known, recipe, movers) for node in graph.nodes if node.op != "Constant"]
    nodes = [row.pop("node") for row in rows]
    candidates = partition.candidates(nodes)
    pieces = candidates if alone else partition.candidates([n._replace(supported=n.offered) for n in nodes])
    weights = [len(positions) if alone else sum(nodes[p].weight for p in positions) for positions in pieces]
    placed = partition.heaviest(weights, limit)  # TensorRT by itself loads the subgraphs of most layers
    _place(rows, pieces, placed)
    tensors = {name: list(t.shape) for name, t in graph.tensors().items() if not isinstance(t, gs.Constant)}
    moved = _transfers(rows, nodes, tensors, known["channels"]["bytes"], recipe["compute"])
    offered = sum(map(bool, weights))
    counts = {"candidates": len(candidates), "offered": offered, "loadables": len(placed), "limit": limit}
    macs = {side: sum(row["macs"] for row in rows if row["runs_on"] == side) for side in ("dla", "gpu")}
    totals = _totals(moved)
    return {
        **recipe,
        **counts,
        "nodes": rows,
        "fallback": dict(sorted(collections.Counter(row["op"] for row in rows if not row["supported"]).items())),
        "subgraphs": [_subgraph(rows, pieces[number], order, moved) for order, number in enumerate(placed, 1)],
        "moved": moved,
        "transfers": totals,
        "macs": macs,
        "prediction": predict(known, recipe, counts, macs, totals),
    }


SUMMARY = ("candidates", "offered", "loadables", "limit", "fallback", "transfers", "macs", "prediction")


def summary(report: dict) -> dict:
    """Return a report with the number of its nodes in place of the nodes."""
    return {**{key: report[key] for key in SUMMARY}, "node_count": len(report["nodes"])}


def _row(node, known, recipe, movers):
    """Return a node's row of the report, with its partition.Node under `node`."""
    reason = rules.problem(known, node, recipe["generation"], recipe["version"])
    read, macs, idle = rules.activations(node), macs_of(node), node.op in movers
    sources, results = ([tensor.name for tensor in tensors] for tensors in (read, node.outputs))
    batch = partition.batch_of((read or node.outputs)[0].shape)
    viewed = partition.Node(node.name, sources, results, reason is None, batch, macs, reason is None and not idle)
    row = {"name": node.name, "op": node.op, "supported": reason is None, "macs": macs, "node": viewed}
    return {**row, "reason": reason or ("it only moves data" if idle else None)}


def macs_of(node: gs.Node) -> int:
    """Return the multiply-accumulates of a convolution or product for the batch in its shapes, or 0."""
    if node.op not in CONVOLUTIONS:
        return 0
    result, weight = math.prod(node.outputs[0].shape), list(node.inputs[1].shape)
    if node.op == "Conv":
        return result * math.prod(weight[1:])
    return result * (weight[-1] if node.op == "Gemm" and node.attrs.get("transB") else weight[-2])


def _place(rows, pieces, placed):
    """Write into each row where its node runs, and the reason if the rules give none."""
    for row in rows:
        row["runs_on"], row["subgraph"] = "gpu", None
    for order, number in enumerate(placed, 1):
        for position in pieces[number]:
            rows[position].update(runs_on="dla", subgraph=order)
    for number in set(range(len(pieces))) - set(placed):
        worth = any(rows[position]["macs"] for position in pieces[number])
        reason = "more subgraphs than can be loaded" if worth else "its subgraph has no convolution"
        for position in pieces[number]:
            rows[position]["reason"] = reason


def _transfers(rows, nodes, tensors, group, compute):
    """Return the transfers of tensors, {tensor, from, to, bytes}; an end is a subgraph's number or `gpu`."""
    places = {tensor: row["subgraph"] or "gpu" for row, node in zip(rows, nodes) for tensor in node.outputs}
    readers = collections.defaultdict(set)
    for row, node in zip(rows, nodes):
        for tensor in node.inputs:
            readers[tensor].add(row["subgraph"] or "gpu")
    read = {tensor for node in nodes for tensor in node.inputs}
    for tensor in tensors:
        places.setdefault(tensor, "gpu")
        if tensor not in read:
            readers[tensor].add("gpu")  # the network's output
    ends = [(tensor, places[tensor], to) for tensor in tensors for to in readers[tensor] if to != places[tensor]]
    moved = [{"tensor": t, "from": a, "to": b, "bytes": bytes_of(tensors[t], group, compute)} for t, a, b in ends]
    return sorted(moved, key=lambda row: (row["tensor"], str(row["to"])))


def bytes_of(shape: list[int], group: int, compute: str) -> int:
    """Return the bytes of a tensor in a DLA's format, which pads channels to a multiple of `group` bytes."""
    size = SIZES[compute]
    channels = shape[-3] if len(shape) > 2 else shape[-1]
    padded = math.ceil(channels * size / group) * group
    return math.prod(shape) // max(channels, 1) * padded


def _totals(moved):
    """Return the bytes to the DLA, to the GPU, and between subgraphs (through memory, not through the GPU)."""
    totals = dict.fromkeys(("to_dla", "to_gpu", "between"), 0)
    for row in moved:
        totals["to_gpu" if row["to"] == "gpu" else "to_dla" if row["from"] == "gpu" else "between"] += row["bytes"]
    return {**totals, "tensors": len(moved)}


def _subgraph(rows, positions, number, moved):
    entering, leaving = ([row for row in moved if row[end] == number] for end in ("to", "from"))
    return {
        "number": number,
        "nodes": [rows[position]["name"] for position in positions],
        "macs": sum(rows[position]["macs"] for position in positions),
        "bytes_in": sum(row["bytes"] for row in entering),
        "bytes_out": sum(row["bytes"] for row in leaving),
    }


# Whether it can pay


def costs(known: dict) -> tuple[float, float]:
    """Return (milliseconds that a loadable costs, MACs a second of the GPU), as measured.

    The cost of a loadable is the time that 16 of them added to a query, divided by 16: they saved the GPU next to
    nothing.
    """
    measured = known["measured"]
    added = 1e3 / measured["dla_qps"] - 1e3 / measured["gpu_qps"]
    return added / measured["dla_loadables"], measured["gpu_macs"] * measured["gpu_qps"]


def predict(known: dict, recipe: dict, counts: dict, macs: dict, transfers: dict) -> dict:
    """Return the verdict on a placement and the arithmetic behind it; all times are milliseconds a query.

    The gain is the GPU's time for the MACs that leave it: at most at the measured rate of a small network at batch 1,
    at least at the GPU's peak. The price is the loadables' fixed cost and the DLA's own time at its peak. A placement
    is not worth it if the largest gain is below the price, and worth it if the smallest gain is above. Between the two,
    only a trial can tell.
    """
    each, speed = costs(known)
    chips = known["generations"][recipe["generation"]]
    peak = chips["macs_per_second"].get(recipe["compute"])
    least = 1e3 * macs["dla"] / chips["gpu_macs_per_second"][recipe["compute"]]
    gained, computing = 1e3 * macs["dla"] / speed, 1e3 * macs["dla"] / peak if peak else None
    paid = counts["loadables"] * each
    rest = gained - (computing or 0.0)
    even = math.ceil(recipe["batch"] * paid / rest) if rest > 0 else None
    surely = computing is not None and least - computing > paid
    verdict = "worth it" if surely else "worth a trial" if rest > paid else "not worth it"
    verdict = verdict if macs["dla"] and counts["offered"] <= counts["limit"] else "does not fit"
    return {
        "verdict": verdict,
        "gpu_ms_saved_at_least": round(least, 4),
        "gpu_ms_saved_at_most": round(gained, 4),
        "dla_ms_at_least": None if computing is None else round(computing, 4),
        "loadables_ms": round(paid, 4),
        "ms_per_loadable": round(each, 4),
        "break_even_batch": even,
        "sentence": _sentence(known, recipe, counts, macs, transfers, (verdict, gained, computing, paid, even)),
    }


def _sentence(known, recipe, counts, macs, transfers, result):
    verdict, gained, computing, paid, even = result
    share = 100 * macs["dla"] / max(macs["dla"] + macs["gpu"], 1)
    moved = (transfers["to_dla"] + transfers["to_gpu"]) / 1e6
    subgraphs = "1 subgraph" if counts["offered"] == 1 else f"{counts['offered']} subgraphs"
    computes = "the DLA's time is unknown" if computing is None else f"the DLA takes at least {computing:.2f} ms"
    price = f"{counts['loadables']} loadables cost {paid:.2f} ms (as measured on {known['measured']['board']})"
    later = f"; from batch {even} on it is worth a trial" if verdict == "not worth it" and even else ""
    return (
        f"{verdict}: {subgraphs} for {counts['limit']} loadables of a core, {share:.1f} % of the MACs, {moved:.2f} MB "
        f"moved; at batch {recipe['batch']} the GPU saves at most {gained:.2f} ms, {computes}, and {price}{later}"
    )
