"""The DLA-fit report as an SVG: the network as a band, nodes on a DLA above the line, nodes on the GPU below."""

from __future__ import annotations

import math
from typing import Any

from reporting import template

WIDTH, MARGIN = 1200, 24
SHORT, TALL = 5, 56  # heights of a node without MACs and of the one with the most


def render(names: dict[str, str], report: dict, before: dict) -> str:
    """Return the SVG of a report and of the one of the graph before surgery; names: {model, precision, target}."""
    prediction = report["prediction"]
    most = max(prediction["gpu_ms_saved_at_most"], prediction["loadables_ms"], 1e-9)
    return template.render(
        "dla.svg",
        names=names,
        fit=report,
        before=before,
        bands=[(band(before), before), (band(report), report)],
        shares=[share(one["macs"]) for one in (before, report)],
        width=WIDTH,
        margin=MARGIN,
        inside=WIDTH - 2 * MARGIN,
        scale=(WIDTH - 2 * MARGIN - 330) / most,
        format_bytes=format_bytes,
        sentence=prediction["sentence"].split("; "),
    )


def share(macs: dict[str, int]) -> float:
    """Return the share of the MACs on a DLA, 0 to 1."""
    return macs["dla"] / max(macs["dla"] + macs["gpu"], 1)


def format_bytes(count: float) -> str:
    """Return a number of bytes with its unit."""
    scaled = [f"{count / size:.1f} {unit}" for size, unit in ((1e6, "MB"), (1e3, "kB")) if count >= size]
    return scaled[0] if scaled else f"{count} B"


def band(report: dict) -> dict[str, Any]:
    """Return {step, nodes, spans, moves} of a report in pixels: x from the left, heights from the middle line."""
    rows = report["nodes"]
    step = (WIDTH - 2 * MARGIN) / max(len(rows), 1)
    most = max((row["macs"] for row in rows), default=0) or 1
    heights = [round(SHORT + (TALL - SHORT) * math.sqrt(row["macs"] / most), 1) for row in rows]
    nodes = [{**row, "x": _x(n, step), "height": height} for n, (row, height) in enumerate(zip(rows, heights))]
    ends = {row["name"]: number for number, row in enumerate(rows)}
    spans = [_span(subgraph, ends, step) for subgraph in report["subgraphs"]]
    return {"step": round(step, 2), "nodes": nodes, "spans": spans, "moves": _moves(report, step)}


def _x(number, step):
    return round(MARGIN + number * step, 2)


def _span(subgraph, ends, step):
    places = [ends[name] for name in subgraph["nodes"]]
    x, end = _x(min(places), step), _x(max(places) + 1, step)
    return {**subgraph, "x": x, "width": round(end - x, 2), "middle": round((x + end) / 2, 1)}


def _moves(report, step):
    """Return the transfers between DLA and GPU: {x, down, size, label}, at the border of the subgraph on the DLA."""
    first, last = {}, {}
    for number, row in enumerate(report["nodes"]):
        if row["subgraph"]:
            first.setdefault(row["subgraph"], number)
            last[row["subgraph"]] = number + 1
    moves = []
    for move in report["moved"]:
        down = move["to"] == "gpu"
        if not down and move["from"] != "gpu":
            continue
        position = last[move["from"]] if down else first[move["to"]]
        size = round(2 + 1.1 * math.log10(max(move["bytes"], 10)), 1)
        label = f"{move['tensor']}: {format_bytes(move['bytes'])} to the {'GPU' if down else 'DLA'}"
        moves.append({"x": _x(position, step), "down": down, "size": size, "label": label})
    return moves
