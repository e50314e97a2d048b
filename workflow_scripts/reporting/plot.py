"""Coordinates of small SVG plots: accuracy over speed, bars of effects. Standard library only."""

from __future__ import annotations

import math
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 320, 56, 16, 16, 44
BARS = 150  # height of a bar chart

# A shape per target, as SVG paths around the origin: circle, square, diamond, triangle, cross.
MARKS = (
    "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0",
    "M-5.3 -5.3h10.6v10.6h-10.6z",
    "M0 -7l7 7l-7 7l-7 -7z",
    "M0 -7l7 12h-14z",
    "M-6 -2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
)


def scatter(points: list[dict]) -> dict[str, Any] | None:
    """Return {width, height, dots, x_ticks, y_ticks} for points {x: images/s, y: percent, ...}; None without points.

    x is logarithmic. Each dot is its point with `px` and `py` added, in pixels.
    """
    if not points:
        return None
    low, high = (math.log10(f(p["x"] for p in points)) for f in (min, max))
    low, high = low - 0.08, high + 0.08
    bottom, top = _span([p["y"] for p in points])

    def px(x):
        return round(LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def py(y):
        return round(HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "dots": [{**p, "px": px(p["x"]), "py": py(p["y"])} for p in points],
        "x_ticks": [(px(v), f"{v:g}") for v in _decades(low, high)],
        "y_ticks": [(py(v), f"{v:g}") for v in _steps(bottom, top)],
    }


def _span(values):
    """Return the ends of the percent axis: a little beyond the values, at least one point apart."""
    margin = max(0.15 * (max(values) - min(values)), 0.5)
    return min(values) - margin, min(max(values) + margin, 100.5)


def _decades(low, high):
    """Return 1, 2 and 5 times the powers of ten between 10^low and 10^high."""
    values = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    return [v for v in values if 10**low <= v <= 10**high]


def _steps(low, high):
    """Return four to nine round numbers between two percentages."""
    rough = (high - low) / 9
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step)
    return [round(k * step, 9) for k in range(first, math.floor(high / step) + 1)]


def bars(values: list[dict]) -> dict[str, Any] | None:
    """Return {width, height, base, bars, ticks, parts} for values {value: share or None, part: text, ...}, or None.

    The axis is linear, in percent; None is drawn to the top. `parts` are runs of bars with an equal `part`.
    """
    known = [one["value"] for one in values if one["value"] is not None]
    if not values:
        return None
    highest, step = max(known, default=0.0) or 0.01, (WIDTH - LEFT - RIGHT) / len(values)
    base = BARS - BOTTOM / 2

    def height(value):
        return round((1.0 if value is None else value / highest) * (base - TOP), 1)

    tops = [max(height(one["value"]), 1.0) for one in values]
    drawn = [{**one, "px": round(LEFT + n * step, 1), "height": tops[n]} for n, one in enumerate(values)]
    ticks = [(round(base - height(share / 100), 1), f"{share:g}") for share in _steps(0.0, 100 * highest)]
    frame = {"width": WIDTH, "height": BARS, "left": LEFT, "right": WIDTH - RIGHT, "base": base, "step": round(step, 2)}
    return {**frame, "bars": drawn, "ticks": ticks, "parts": _parts(drawn)}


def _parts(drawn):
    """Return (pixels, name) of the start of each part of the network."""
    before = [None, *(one["part"] for one in drawn)]
    return [(one["px"], one["part"]) for one, last in zip(drawn, before) if one["part"] != last]
