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
    kinds = {"pareto": _pareto, "speedup": _speedup, "latency": _latency, "energy": _energy}
    drawn = {kind: [draw(results, choice, look) for choice in choices_of(results)] for kind, draw in kinds.items()}
    return {kind: [chart for chart in several if chart] for kind, several in drawn.items()}


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


def _pareto(results, choice, look):
    name, rows = _names(results), []
    for result, entry in _shown(results, choice):
        accuracy = result["accuracy"]
        low, high = proportion.interval(accuracy["top1"], accuracy["num_images"])
        figures = {"speed": entry["images_per_second"], "top1": accuracy["top1"], "low": low, "high": high}
        label = (
            f"{name(result)}: {accuracy['top1']:.2f} % ({low:.1f} to {high:.1f}), "
            f"{tables.speed(entry['images_per_second'])} images/s at batch {entry['batch']}"
        )
        rows.append({**figures, **look.of(result, entry["stable"]), "name": name(result), "label": label})
    _mark_front(rows)
    title = f"Top-1 accuracy over images per second, {_batch(choice)}"
    return charts.draw("pareto", rows, title, choice, arrange=labels.placed)


def _batch(choice):
    return "each engine at its best batch size" if choice == BEST else f"at batch {choice}"


def _mark_front(rows):
    """Set `front` of the rows that no other one is faster and more accurate than."""
    for one in rows:
        above = [(o["speed"], o["top1"]) for o in rows if o["speed"] >= one["speed"] and o["top1"] >= one["top1"]]
        one["front"] = set(above) == {(one["speed"], one["top1"])}


def _speedup(results, choice, look):
    name, rows = _names(results), []
    for result, entry in _shown(results, choice):
        over = over_pytorch.over_pytorch(results, result, entry["batch"])
        if over:
            rows.append({**_bar_of(over.ratio), "name": name(result), "label": f"{name(result)}: {_spoken(over)}"})
            rows[-1]["color"] = look.of(result, not over.ratio.mark)["color"]
    return charts.draw("speedup", rows, f"Speed as a multiple of PyTorch's, {_batch(choice)}", choice)


def _bar_of(ratio):
    low, high = (ratio.value if end is None else end for end in (ratio.low, ratio.high))
    return {
        "ratio": ratio.value,
        "low": low,
        "high": high,
        "end": max(high, ratio.value),
        "text": f"{ratio.value:.2f}x",
    }


def _spoken(over):
    interval = "timed apart" if over.ratio.low is None else f"{over.ratio.low:.2f} to {over.ratio.high:.2f}"
    return f"{over.ratio.value:.2f} times {over.name} ({interval})"


def _latency(results, choice, look):
    name, rows = _names(results), []
    for result, entry in _shown(results, choice):
        latency = entry["latency_ms"]
        quantiles = ", ".join(f"{key} {latency[key]:.3f}" for key in ("min", "median", "p95", "p99", "max"))
        label = f"{name(result)} at batch {entry['batch']}: {quantiles} ms"
        rows.append({**latency, **look.of(result, entry["stable"]), "name": name(result), "label": label})
    rows.sort(key=lambda row: row["median"])
    return charts.draw("latency", rows, f"Latency of a query, {_batch(choice)}. {SPREAD}", choice)


def _energy(results, choice, look):
    name, rows = _names(results), []
    for result, entry in _shown(results, choice):
        energy = entry["energy_mj_per_image"]
        if energy is not None:
            label = f"{name(result)}: {energy:.2f} mJ an image at batch {entry['batch']}"
            rows.append({**look.of(result, entry["stable"]), "name": name(result), "energy": energy, "label": label})
    rows.sort(key=lambda row: row["energy"])
    return charts.draw("energy", rows, f"Energy, {_batch(choice)}", choice)
