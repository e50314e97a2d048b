"""The DLA-fit report as a picture (dla.svg): the network as a band, above the line on a DLA, below it on the GPU.

Standard library and jinja2 only.
"""

import math
from pathlib import Path

TEMPLATE = Path(__file__).with_name("dla.svg")
WIDTH, MARGIN = 1200, 24
SHORT, TALL = 5, 56  # heights of a node without MACs and of the one with the most
LARGE, SMALL = 1e6, 1e3  # bytes


def render(names, found, before):
    """Return the SVG text of a report and of the one before the surgery. names: {model, precision, target}."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    most = max(found["prediction"]["gpu_ms_saved_at_most"], found["prediction"]["loadables_ms"], 1e-9)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        names=names,
        found=found,
        before=before,
        bands=[(band(before), before), (band(found), found)],
        shares=[share(report["macs"]) for report in (before, found)],
        width=WIDTH,
        margin=MARGIN,
        inside=WIDTH - 2 * MARGIN,
        scale=(WIDTH - 2 * MARGIN - 330) / most,
        spoken=spoken,
        sentence=found["prediction"]["sentence"].split("; "),
    )


def share(macs):
    """Return the part of the MACs that a DLA does, 0 to 1."""
    return macs["dla"] / max(macs["dla"] + macs["gpu"], 1)


def spoken(count):
    """Return a number of bytes in words."""
    return (
        f"{count / LARGE:.1f} MB" if count >= LARGE else f"{count / SMALL:.1f} kB" if count >= SMALL else f"{count} B"
    )


def band(report):
    """Return {step, nodes, spans, moves} of a report in pixels: x from the left, heights from the middle line."""
    rows = report["nodes"]
    step = (WIDTH - 2 * MARGIN) / max(len(rows), 1)
    most = max((row["macs"] for row in rows), default=0) or 1
    nodes = [{**row, "x": _x(number, step), "height": _height(row["macs"], most)} for number, row in enumerate(rows)]
    ends = {row["name"]: number for number, row in enumerate(rows)}
    spans = [_span(subgraph, ends, step) for subgraph in report["subgraphs"]]
    return {"step": round(step, 2), "nodes": nodes, "spans": spans, "moves": _moves(report, step)}


def _x(number, step):
    return round(MARGIN + number * step, 2)


def _height(macs, most):
    return round(SHORT + (TALL - SHORT) * math.sqrt(macs / most), 1)


def _span(subgraph, ends, step):
    places = [ends[name] for name in subgraph["nodes"]]
    x, end = _x(min(places), step), _x(max(places) + 1, step)
    return {**subgraph, "x": x, "width": round(end - x, 2), "middle": round((x + end) / 2, 1)}


def _moves(report, step):
    """Return the transfers between the two sides: {x, down, size, label}, where the reading subgraph begins or ends."""
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
        place = last[move["from"]] if down else first[move["to"]]
        size = round(2 + 1.1 * math.log10(max(move["bytes"], 10)), 1)
        label = f"{move['tensor']}: {spoken(move['bytes'])} to the {'GPU' if down else 'DLA'}"
        moves.append({"x": _x(place, step), "down": down, "size": size, "label": label})
    return moves
