"""What an engine's layers compute in and take, by type and precision, and the slowest ones. Standard library only.

The layers of every engine are in its description (build_engine.py); their times only in a profile (profile_engine.py),
which is made on request.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from reporting import charts, comparison, tables
from reporting.tables import Cell, Row, number, text

PRECISIONS = ("int8", "fp16", "bf16", "fp32")  # others have no precision, or do not tell
SLOWEST = 8  # layers in the table of a profile
TYPES = 10  # types of layers in a chart; the rest is one
REST = "all others"


def maps_of(results: list[dict], described: dict, profiled: dict, timelines: list[str]) -> list[dict[str, Any]]:
    """Return the map of each engine: its name, chart, slowest layers and timeline; a profile goes before a description.

    described, profiled: {path: parsed file}; timelines: paths of pictures.
    """
    engines = [result for result in results if not result["chosen"]]
    return [entry for result in engines for entry in _maps(result, described, profiled, timelines)]


def _maps(result, described, profiled, timelines):
    timeline = comparison.artifact_of(result, "timeline", "svg")
    link = comparison.link_of(timeline) if timeline in timelines else None
    facts = {"name": comparison.title_of(result), "timeline": link}
    profile = profiled.get(comparison.artifact_of(result, "profile"))
    if profile and profile["engine_sha256"] == result["engine"]["sha256"]:
        return [{**facts, **_timed(entry, comparison.name_of(result))} for entry in profile["profile"]]
    layers = (described.get(comparison.artifact_of(result, "engines")) or {}).get("layers")
    return [{**facts, **_counted(layers)}] if layers else []


def _timed(entry, name):
    rows = _bars([(layer["type"], layer["precision"], layer["ms"]) for layer in entry["layers"]], "{:.3f} ms")
    title = f"{entry['total_ms']:.2f} ms in {len(entry['layers'])} layers at batch {entry['batch']}"
    chart = charts.draw("layers", rows, title, axis="milliseconds")
    return {"title": title, "chart": chart, "slowest": _slowest(entry, f"{name}-{entry['batch']}".replace(".", "-"))}


def _slowest(entry, name):
    layers = sorted(entry["layers"], key=lambda layer: (-layer["ms"], layer["name"]))[:SLOWEST]
    caption = f"The {len(layers)} slowest layers at batch {entry['batch']}"
    return tables.table(f"layers-{name}", caption, map(_row, layers))


def _row(layer):
    named = {"layer": text(layer["name"]), **{key: text(layer[key]) for key in ("type", "precision")}}
    share = Cell(f"{100 * layer['share']:.1f}", layer["share"])
    return Row({**named, "ms": number(layer["ms"], "{:.4f}"), "% of the sum": share})


def _counted(layers):
    rows = _bars([(layer["type"], layer["precision"], 1) for layer in layers], "{:.0f} layers")
    title = f"{len(layers)} layers by type and precision"
    return {"title": title, "chart": charts.draw("layers", rows, title, axis="layers"), "slowest": None}


def _bars(layers, form):
    """Return the bars of layers [(type, precision, value)]: a sum for each type and precision, large ones first."""
    sums, types = defaultdict(float), defaultdict(float)
    for kind, _, value in layers:
        types[kind] += value
    largest = sorted(types, key=lambda kind: (-types[kind], kind))
    types_of_bars = largest if len(largest) <= TYPES else largest[: TYPES - 1]
    for kind, precision, value in layers:
        sums[kind if kind in types_of_bars else REST, precision if precision in PRECISIONS else "none"] += value
    order = {kind: n for n, kind in enumerate([*types_of_bars, REST])}
    kinds = [*PRECISIONS, "none"]
    return [
        {"type": kind, "value": value, "color": _color(precision), "order": kinds.index(precision)}
        | {"label": f"{kind}, {precision}: {form.format(value)}"}
        for (kind, precision), value in sorted(sums.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]


def legend(described: dict, profiled: dict) -> list[tuple[str, str]]:
    """Return (precision, colour) of the bars of descriptions and profiles, {path: parsed file}."""
    entries = [*described.values(), *(entry for profile in profiled.values() for entry in profile["profile"])]
    present = {layer["precision"] for entry in entries for layer in entry["layers"] or ()}
    others = ["none"] * bool(present - {*PRECISIONS})
    return [(name, _color(name)) for name in [*(name for name in PRECISIONS if name in present), *others]]


def _color(precision):
    return "var(--grey)" if precision == "none" else f"var(--layer-{precision})"
