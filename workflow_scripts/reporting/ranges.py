"""The ranges of calibrations as charts: the largest magnitude that each quantizer covers. Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reporting import charts, comparison

WEIGHT = "weight_quantizer"


def chart_of(path: str, calibration: dict) -> dict[str, Any]:
    """Return the chart of a calibration's file: {name, link, recipe, chart, count}."""
    name = Path(path).stem.replace(".", " ")
    ranges = sorted(calibration["amax"].items(), key=lambda item: _position(item[0]))  # stem, stages, head
    rows = [row for position, item in enumerate(ranges) for row in _points(position, *item)]
    chart = charts.draw("ranges", rows, f"Ranges of {name}: the largest magnitude that each quantizer covers")
    recipe = ", ".join(f"{key} {value}" for key, value in calibration.get("recipe", {}).items())
    facts = {"name": name, "link": comparison.link_of(path), "recipe": recipe}
    return {**facts, "chart": chart, "count": len(calibration["amax"])}


def _position(name):
    parts = name.split(".")
    first = {"stem": 0, "stages": 1}.get(parts[0], 2)
    return [first, *((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)]


def _points(position, name, amax):
    """Return the point of a tensor's range, or of a channel's largest one; a range of zero has no logarithm."""
    weight, largest = name.endswith(WEIGHT), max(amax) if isinstance(amax, list) else amax
    channels = f", the largest of {len(amax)} channels" if isinstance(amax, list) else ""
    look = {"color": "var(--c0)", "shape": "diamond"} if weight else {"color": "var(--c3)", "shape": "circle"}
    label = f"{name}: {largest:.4g}{channels}"
    return [{"position": position, "amax": largest, "label": label, **look}] if largest > 0 else []
