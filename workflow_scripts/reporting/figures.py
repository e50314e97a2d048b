"""What the page charts: rows of results for the specifications in charts/. Standard library only."""

from __future__ import annotations

from typing import Any

from measure import proportion
from reporting import charts, comparison, labels, over_pytorch, tables
from reporting.engines import BEST, choices_of, shown_at

SPREAD = "The line spans all queries, the bar median to 95th percentile; the short mark is the 99th"


class Look:
    """The colours and shapes of a page: a colour a precision, a shape a target; grey is what was not stable."""

    def __init__(self, results: list[dict]):
        self.precisions = comparison.ordered(result["precision"] for result in results if not result["chosen"])
        self.targets = sorted({result["target"] for result in results})
        self.unsteady = any(not entry["stable"] for result in results for entry in result["benchmark"])

    def of(self, result: dict, steady: bool = True) -> dict[str, str]:
        """Return {color, shape} of a result that has an engine of its own."""
        color = charts.color(self.precisions, result["precision"]) if steady else charts.GREY
        return {"color": color, "shape": charts.shape(self.targets, result["target"])}

    def legend(self) -> dict[str, Any]:
        """Return (name, colour) of each precision, (name, shape) of each target, and whether any timing is grey."""
        colors = [(name, charts.color(self.precisions, name)) for name in self.precisions]
        shapes = [(name, charts.shape(self.targets, name)) for name in self.targets]
        return {"colors": colors, "shapes": shapes, "unsteady": self.unsteady}


def of(results: list[dict], look: Look) -> dict[str, list[dict[str, Any]]]:
    """Return the charts of results on the same images by their kind, one for each choice of the batch size."""
    choices = choices_of(results)
    drawn = {kind: [_draw(kind, results, choice, look) for choice in choices] for kind in KINDS}
    return {kind: [chart for chart in several if chart] for kind, several in drawn.items()}


def _draw(kind, results, choice, look):
    row_of, title, arrange = KINDS[kind]
    name, rows = _names(results), []
    for result, entry in _shown(results, choice):
        row = row_of(results, result, entry, name(result))
        if row:
            steady = row.pop("steady", entry["stable"])
            rows.append({**look.of(result, steady), "name": name(result), **row})
    batch = "each engine at its best batch size" if choice == BEST else f"at batch {choice}"
    return charts.draw(kind, rows, title.format(batch), choice, arrange=arrange)


def _shown(results, choice):
    """Return (result, benchmark entry) of the engines that a choice of the batch size shows, without second names."""
    pairs = [(r, entry) for r in results if not r["chosen"] for entry in r["benchmark"]]
    return [(r, entry) for r, entry in pairs if choice in shown_at(r, entry["batch"]).split()]


def _names(results):
    """Return a function result -> its engine's name in charts, without the model or target that all have."""
    models, targets = ({result[key] for result in results} for key in ("model", "target"))

    def name(result):
        model = f"{result['model']} " if len(models) > 1 else ""
        return model + result["precision"] + (f".{result['target']}" if len(targets) > 1 else "")

    return name


def _pareto(results, result, entry, name):
    accuracy, speed = result["accuracy"], entry["images_per_second"]
    low, high = proportion.interval(accuracy["top1"], accuracy["num_images"])
    measured = f"{accuracy['top1']:.2f} % ({low:.1f} to {high:.1f}), {tables.speed(speed)} images/s"
    label = f"{name}: {measured} at batch {entry['batch']}"
    return {"speed": speed, "top1": accuracy["top1"], "low": low, "high": high, "label": label}


def _placed(rows, width):
    """Set `front` of the rows that no other one is faster and more accurate than, and place the labels."""
    for one in rows:
        above = [(o["speed"], o["top1"]) for o in rows if o["speed"] >= one["speed"] and o["top1"] >= one["top1"]]
        one["front"] = set(above) == {(one["speed"], one["top1"])}
    return labels.placed(rows, width)


def _speedup(results, result, entry, name):
    over = over_pytorch.over_pytorch(results, result, entry["batch"])
    if over is None:
        return None
    ratio = over.ratio
    low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
    ends = {"low": low, "high": high, "end": max(high, ratio.value), "steady": not ratio.mark}
    interval = "timed apart" if ratio.low is None else f"{low:.2f} to {high:.2f}"
    label = f"{name}: {ratio.value:.2f} times {over.name} ({interval})"
    return {"ratio": ratio.value, **ends, "text": f"{ratio.value:.2f}x", "label": label}


def _latency(results, result, entry, name):
    latency = entry["latency_ms"]
    quantiles = ", ".join(f"{key} {latency[key]:.3f}" for key in ("min", "median", "p95", "p99", "max"))
    return {**latency, "label": f"{name} at batch {entry['batch']}: {quantiles} ms"}


def _energy(results, result, entry, name):
    energy = entry["energy_mj_per_image"]
    if energy is None:
        return None
    return {"energy": energy, "label": f"{name}: {energy:.2f} mJ an image at batch {entry['batch']}"}


def _by(key):
    return lambda rows, width: sorted(rows, key=lambda row: row[key])


KINDS = {  # kind: (row of an engine or None, title, arrangement of the rows)
    "pareto": (_pareto, "Top-1 accuracy over images per second, {}", _placed),
    "speedup": (_speedup, "Speed as a multiple of PyTorch's, {}", None),
    "latency": (_latency, "Latency of a query, {}. " + SPREAD, _by("median")),
    "energy": (_energy, "Energy, {}", _by("energy")),
}
