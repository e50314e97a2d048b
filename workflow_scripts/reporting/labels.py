"""Where the labels of a chart go: beside their points and clear of one another. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterator

LETTER, LINE, POINT = 6.8, 14, 7  # pixels: a bold letter of 12 pixels, a line's height, a point's reach
HEIGHT, MARGIN = 240, (40, 14)  # of charts/pareto.json: the plot's height, the padding of its scales
NEAR, FAR = 15, 29  # pixels from a point to the middle of its label


def placed(rows: list[dict], width: int) -> list[dict]:
    """Return rows of charts/pareto.json for a plot's width, with `dx` and `dy` of their labels: the front's go first.

    A label without room is left out: its point is named in the table, and to a screen reader.
    """
    points = list(zip(_pixels(rows, width), rows))
    occupied = [_box(x, y, 2 * POINT, 2 * POINT) for (x, y), _ in points]
    labelled = []
    for (x, y), row in sorted(points, key=lambda one: not one[1]["front"]):
        place = _place(x, y, LETTER * len(row["name"]), width, occupied)
        labelled.append({**row, "dx": place and place[0], "dy": place and place[1]})
    return labelled


def _pixels(rows, width):
    """Return (x, y) of each row's point, x on a logarithmic scale."""
    speeds = [math.log(row["speed"]) for row in rows]
    low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
    across = [_scaled(speed, min(speeds), max(speeds), width, MARGIN[0]) for speed in speeds]
    down = [HEIGHT - _scaled(row["top1"], low, high, HEIGHT, MARGIN[1]) for row in rows]
    return list(zip(across, down))


def _scaled(value, low, high, size, margin):
    return margin + (value - low) / (high - low) * (size - 2 * margin) if high > low else size / 2


def _place(x, y, length, width, occupied):
    """Return (dx, dy) of the first place that is free, which is then taken, or None."""
    for dx, dy in _places(x, length, width):
        box = _box(x + dx, y + dy, length, LINE)
        within = box[0] > -1 and box[2] < max(width, length) + 1 and box[1] > -LINE and box[3] < HEIGHT
        if within and not any(_meet(box, other) for other in occupied):
            occupied.append(box)
            return dx, dy
    return None


def _places(x, length, width) -> Iterator[tuple[float, float]]:
    """Yield the places of a label from the best on: above, below, beside its point, farther away."""
    inside = min(max(x, length / 2), max(width - length / 2, length / 2)) - x  # moved until it is over the plot
    beside = length / 2 + POINT + 2
    for dy in (-NEAR, NEAR + 1):
        yield from ((dx, dy) for dx in (inside, length / 2 - POINT, POINT - length / 2))
    yield from ((dx, 0) for dx in (beside, -beside))
    yield from ((inside, dy) for dy in (-FAR, FAR))


def _box(x, y, width, height) -> tuple:
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _meet(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
