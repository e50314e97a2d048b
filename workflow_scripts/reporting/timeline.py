"""An engine's layers along time as an SVG: a band per batch size, coloured by precision, the slowest layers numbered.

The layers of a profile (profile_engine.py) follow one another in order of execution, even if some run concurrently.
"""

from __future__ import annotations

import itertools

from reporting import template

WIDTH, LEFT, RIGHT, BAND, ROW, SHOWN = 1160, 20, 20, 54, 17, 10
COLORED = ("int8", "fp16", "bf16", "fp32")  # others have no precision: shapes, indices, or unknown
# words in the types of layers that only move or convert data
MOVING = ("Reformat", "Reorder", "Cast", "Convert", "Quantize", "Dequantize", "Transpose", "Shuffle")


def draw(profiles: list[dict], title: str) -> str:
    """Return the SVG of profiles [{"batch", "total_ms", "ms_by_precision", "layers": [{"name", "type", ...}]}]."""
    bands, y = [], 44
    for profile in profiles:
        bands.append(_band(profile, y + 40))
        y += 40 + BAND + 44 + ROW * ((SHOWN + 1) // 2) + 12
    edges = {"width": WIDTH, "left": LEFT, "right": RIGHT, "y": y}
    return template.render("timeline.svg", title=title, bands=bands, kinds=_kinds(profiles), **edges) + "\n"


def _band(profile, top):
    """Return a batch size's sums, its layers along time, marks of the slowest and ticks; top: of its layers."""
    total, scale = profile["total_ms"], (WIDTH - LEFT - RIGHT) / profile["total_ms"]
    widths = [layer["ms"] * scale for layer in profile["layers"]]
    starts = itertools.accumulate(widths, initial=float(LEFT))
    layers = [_layer(*row) for row in zip(profile["layers"], starts, widths)]
    slowest = _slowest(layers)
    return {
        "top": top,
        "height": BAND,
        "total": total,
        "sums": _sums(profile),
        "layers": layers,
        "marks": list(zip(_apart(slowest), slowest)),
        "half": (len(slowest) + 1) // 2,
        "ticks": [(LEFT + ms * scale, ms) for ms in _ticks(total, scale)],
    }


def _layer(layer, x, width):
    name, kind = layer["name"], layer["precision"] if layer["precision"] in COLORED else "other"
    short = name if len(name) <= 46 else f"{name[:22]}...{name[-21:]}"
    moves = any(word in layer["type"] for word in MOVING)
    return {**layer, "x": x, "width": width, "short": short, "kind": kind, "moves": moves}


def _slowest(layers):
    slowest = sorted(range(len(layers)), key=lambda n: (-layers[n]["ms"], n))[:SHOWN]
    return [layers[n] for n in sorted(slowest)]


def _apart(layers):
    """Return where the circles of layers go: at their middles, or so far behind that they do not overlap."""
    middles = [layer["x"] + layer["width"] / 2 for layer in layers]
    return itertools.accumulate(middles, lambda last, middle: max(middle, last + 16))


def _sums(profile):
    shares = sorted(profile["ms_by_precision"].items(), key=lambda pair: -pair[1])
    percent = ", ".join(f"{name} {100 * ms / profile['total_ms']:.0f} %" for name, ms in shares)
    return f"batch {profile['batch']}: {profile['total_ms']:.3f} ms in {len(profile['layers'])} layers ({percent})"


def _ticks(total, scale):
    """Return at most 12 multiples of 1, 2 or 5 times a power of ten, from a microsecond on; none beside the unit."""
    steps = (round(digit * 10.0**power, 6) for power in range(-3, 6) for digit in (1, 2, 5))
    step = next(size for size in steps if total / size <= 12)
    return [n * step for n in range(int(total / step) + 1) if (total - n * step) * scale > 40]


def _kinds(profiles):
    present = {layer["precision"] for profile in profiles for layer in profile["layers"]}
    return [kind for kind in COLORED if kind in present] + ["other"] * bool(present - {*COLORED}) + ["moving"]
