"""Charts as SVG: Vega-Lite's, by the specifications in charts/; without vl-convert there are none, and tables remain.

A chart is drawn twice, for wide and for narrow screens, since letters must not shrink with it. Colours are the page's
own properties, so that they follow light and dark.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.files import read_json

SPECIFICATIONS = Path(__file__).with_name("charts")
WIDTHS = {"wide": 760, "narrow": 240}  # of the plot without its axes, in pixels
VERSION = "6.4"  # of Vega-Lite, among those that vl-convert has
GREY = "var(--grey)"
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross")


@functools.lru_cache(maxsize=None)
def converter() -> Any:
    """Return the module vl_convert, or None where it is not installed."""
    try:
        import vl_convert
    except ImportError:
        return None
    return vl_convert


def draw(
    name: str, rows: list[dict], title: str, batches: str = "", axis: str = "", arrange: Callable | None = None
) -> dict[str, Any] | None:
    """Return a chart of some rows, {svgs: {width's name: SVG}, title, batches}; None without rows or vl-convert.

    name: of the specification; title: what a screen reader says; batches: the choices of the batch size that show it;
    axis: the title of x, where the specification leaves it open; arrange: returns the rows for a plot's width.
    """
    if not rows or converter() is None:
        return None
    fitted = {width: arrange(rows, pixels) if arrange else rows for width, pixels in WIDTHS.items()}
    svgs = {width: _svg(name, fitted[width], pixels, axis) for width, pixels in WIDTHS.items()}
    return {"svgs": svgs, "title": title, "batches": batches}


def color(names: list[str], name: str) -> str:
    """Return the colour of a name by its place among others."""
    return f"var(--c{names.index(name) % 7})"


def shape(names: list[str], name: str) -> str:
    """Return the shape of a name by its place among others."""
    return SHAPES[names.index(name) % len(SHAPES)]


def _svg(name, rows, width, axis):
    specification = {**copy.deepcopy(_specification(name)), "width": width, "datasets": {"rows": rows}}
    if axis:
        specification["encoding"]["x"]["title"] = axis
    drawn = converter().vegalite_to_svg(specification, vl_version=VERSION, config=_specification("config"))
    return _lean(drawn)


@functools.lru_cache(maxsize=None)
def _specification(name):
    return read_json(SPECIFICATIONS / f"{name}.json")


def _lean(svg):
    """Return an SVG without what has no effect: empty paths, defaults, coordinates beyond a hundredth of a pixel."""
    svg = re.sub(r'<path class="(?:background|foreground)"[^>]*?d="(?:M0,0h0v0h0Z)?"[^>]*/>', "", svg)
    svg = re.sub(
        r' (?:pointer-events="none"|opacity="1"|xmlns(?::xlink)?="[^"]*"|version="1.1"|font-family="[^"]*")', "", svg
    )
    return re.sub(r' (?:d|transform|[xy]2?|width|height)="[^"]*"', lambda found: _rounded(found.group()), svg)


def _rounded(attribute):
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found.group()):.2f}".rstrip("0").rstrip("."), attribute)
