"""An engine's layers along time as an SVG: a band per batch size, coloured by precision, the slowest layers numbered.

The layers of a profile (profile_engine.py) follow one another in order of execution, even if some run concurrently.
Standard library only.
"""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

WIDTH, LEFT, RIGHT, BAND, ROW, SHOWN = 1160, 20, 20, 54, 17, 10
COLORS = {"int8": ("#1a7f4b", "#5fcf96"), "fp16": ("#0b6bcb", "#6cb2ff"), "bf16": ("#7a3fb5", "#c79bff")}
COLORS["fp32"] = ("#d98200", "#ffbe5c")
OTHER = ("#7d8792", "#9aa5b1")  # layers without a precision: shapes, indices, or unknown
# words in the types of layers that only move or convert data
MOVING = ("Reformat", "Reorder", "Cast", "Convert", "Quantize", "Dequantize", "Transpose", "Shuffle")


def draw(profiles: list[dict], title: str) -> str:
    """Return the SVG of profiles [{"batch", "total_ms", "ms_by_precision", "layers": [{"name", "type", ...}]}]."""
    parts, y = [_text(LEFT, 26, title, "title")], 44
    for profile in profiles:
        band, y = _band(profile, y)
        parts += band
    parts += _legend(profiles, y + 6)
    height = y + 34
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    return "\n".join(
        [head, f"<style>{_style()}</style>", f'<rect class="paper" {_box(0, 0, WIDTH, height)}/>', *parts, "</svg>\n"]
    )


def _band(profile, y):
    """Return (parts, y below them) of a batch size: its sums, its layers along time, the names of the slowest."""
    layers, total = profile["layers"], profile["total_ms"]
    scale = (WIDTH - LEFT - RIGHT) / total
    numbers = {id(layer): n for n, layer in enumerate(_slowest(layers), 1)}
    parts, x, last = [_text(LEFT, y + 14, _sums(profile), "band")], float(LEFT), -99.0
    top, marks = y + 40, []
    for layer in layers:
        width = layer["ms"] * scale
        parts.append(_layer(layer, x, top, width))
        if id(layer) in numbers:
            last = max(x + width / 2, last + 16)  # circles do not overlap
            marks.append(_mark(numbers[id(layer)], last, x + width / 2, top))
        x += width
    parts += marks + _axis(total, scale, top + BAND)
    return parts + _names(_slowest(layers), total, top + BAND + 44), top + BAND + 44 + ROW * ((SHOWN + 1) // 2) + 12


def _slowest(layers):
    """Return the slowest layers in order of execution."""
    slowest = sorted(range(len(layers)), key=lambda n: (-layers[n]["ms"], n))[:SHOWN]
    return [layers[n] for n in sorted(slowest)]


def _sums(profile):
    shares = sorted(profile["ms_by_precision"].items(), key=lambda pair: -pair[1])
    percent = ", ".join(f"{name} {100 * ms / profile['total_ms']:.0f} %" for name, ms in shares)
    return f"batch {profile['batch']}: {profile['total_ms']:.3f} ms in {len(profile['layers'])} layers ({percent})"


def _layer(layer, x, top, width):
    kind = layer["precision"] if layer["precision"] in COLORS else "other"
    moving = " moving" if any(word in layer["type"] for word in MOVING) else ""
    text = (
        f"{layer['name']} ({layer['type']}, {layer['precision']}): {layer['ms']:.4f} ms, {100 * layer['share']:.1f} %"
    )
    box = _box(x, top, max(width - 0.4, 0.3), BAND)
    return f'<rect class="{kind}{moving}" {box}><title>{escape(text)}</title></rect>'


def _mark(number, x, middle, top):
    line = f'<path class="line" d="M{x:.1f} {top - 6}L{middle:.1f} {top}"/>'
    return f'{line}<circle class="mark" cx="{x:.1f}" cy="{top - 13}" r="7.5"/>' + _text(x, top - 9.5, number, "number")


def _axis(total, scale, y):
    step = next(size for size in _steps() if total / size <= 12)
    ticks = [n * step for n in range(int(total / step) + 1) if (total - n * step) * scale > 40]  # beside the unit
    marks = [f'<path class="line" d="M{LEFT + tick * scale:.1f} {y}v5"/>' for tick in ticks]
    return (
        marks
        + [_text(LEFT + tick * scale, y + 18, f"{tick:g}", "tick") for tick in ticks]
        + [_text(WIDTH - RIGHT, y + 18, "ms", "unit")]
    )


def _steps():
    """Yield 1, 2 and 5 times the powers of ten from a microsecond on."""
    for power in range(-3, 6):
        yield from (round(digit * 10.0**power, 6) for digit in (1, 2, 5))


def _names(slowest, total, y):
    """Return the names of the slowest layers in two columns."""
    half, parts = (len(slowest) + 1) // 2, []
    for n, layer in enumerate(slowest):
        x, row = LEFT + (n // half) * (WIDTH - LEFT - RIGHT) / 2, y + ROW * (n % half)
        name = layer["name"] if len(layer["name"]) <= 46 else f"{layer['name'][:22]}...{layer['name'][-21:]}"
        kind = layer["precision"] if layer["precision"] in COLORS else "other"
        figures = f"{layer['ms']:.4f} ms  {100 * layer['ms'] / total:.1f} %  {layer['type']}"
        parts.append(_text(x + 7, row, n + 1, "number"))
        parts.append(
            f'<rect class="{kind}" {_box(x + 20, row - 9, 10, 10)}/>' + _text(x + 36, row, f"{name}  {figures}", "name")
        )
    return parts


def _legend(profiles, y):
    """Return the colours of the precisions present, and the mark of layers that only move or convert data."""
    present = {layer["precision"] for profile in profiles for layer in profile["layers"]}
    kinds = [kind for kind in COLORS if kind in present] + (["other"] if present - set(COLORS) else [])
    parts = []
    for n, kind in enumerate([*kinds, "moving"]):
        x, label = LEFT + 84 * n, "moves or converts data" if kind == "moving" else kind
        parts.append(f'<rect class="{kind if kind != "moving" else "other moving"}" {_box(x, y - 10, 12, 12)}/>')
        parts.append(_text(x + 18, y, label, "name"))
    return parts


def _style():
    plain = "".join(f".{kind}{{fill:{pair[0]}}}" for kind, pair in [*COLORS.items(), ("other", OTHER)])
    dark = "".join(f".{kind}{{fill:{pair[1]}}}" for kind, pair in [*COLORS.items(), ("other", OTHER)])
    text = (
        "text{font:12px system-ui,sans-serif;fill:#1b1f24}.title{font-size:16px;font-weight:700}.band{font-weight:600}"
    )
    text += ".tick,.number{text-anchor:middle}.unit{text-anchor:end}.tick,.unit{fill:#5c6670}.number{font-size:10px}"
    text += ".paper{fill:#fff}.line{stroke:#9aa5b1;fill:none}.mark{fill:#f4f6f8;stroke:#5c6670}.moving{fill-opacity:.4}"
    night = "text,.name{fill:#e6e9ec}.tick,.unit{fill:#9aa5b1}.paper{fill:#14181d}.mark{fill:#1c2229}"
    return f"{plain}{text}@media (prefers-color-scheme:dark){{{dark}{night}}}"


def _box(x, y, width, height):
    return f'x="{x:.2f}" y="{y}" width="{width:.2f}" height="{height}"'


def _text(x, y, text, kind):
    return f"<text x={quoteattr(f'{x:.1f}')} y={quoteattr(f'{y:g}')} class={quoteattr(kind)}>{escape(str(text))}</text>"
