"""Mixed-precision plans as rows: the nodes that each keeps and why, and the bisection that it replaces.

Results name the files by path. Standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reporting import charts, comparison, tables
from reporting.tables import BAD, Cell, Row, number, percent, text

CRITERION = {"budget": "budget {:g} top-1 points", "agreement": "agreement {:g} %", "tolerance": "logits within {:g}"}


def table_of(results: list[dict], plans: dict[str, dict], bisects: dict[str, dict]) -> list[dict[str, Any]]:
    """Return a row for each engine that was built by a plan: the result, its plan's evidence and its bisection.

    plans, bisects: {path: parsed file}; a missing one is None. Results that choose among engines have no row.
    """
    planned = [(result, result["plan"]["path"]) for result in results if result["plan"] and not result["chosen"]]
    return [
        {"result": result, "link": comparison.link_of(path), "why": why(plans.get(path))}
        | {"bisect": bisects.get(comparison.artifact_of(result, "bisect"))}
        for result, path in planned
    ]


def why(plan: dict | None) -> str:
    """Return the strongest evidence for a kept node as a text, or the largest effect if no node is kept."""
    if plan is None:
        return ""
    if not plan["nodes"]:
        known = [group for group in plan["groups"] if group["effect"] is not None]
        most = max(known, key=lambda group: group["effect"], default=None)
        return f"most sensitive: {most['name']}, {100 * most['effect']:.2g} %" if most else ""
    node = max(plan["nodes"], key=lambda node: _weight(node["evidence"]))
    effect = node["evidence"].get("effect")
    share = "not finite" if effect is None else f"{100 * effect:.2g} %"
    return f"{node['name']}: {node['evidence']['reason']}, {share}"


def _weight(evidence):
    effect = evidence.get("effect")
    return float("inf") if effect is None else effect


def pictures(plans: dict[str, dict]) -> list[dict[str, Any]]:
    """Return a bar chart of each plan's groups, in the network's order: {"name", "link", "criterion", "chart"}."""
    drawn = [{"criterion": _criterion(plan), **_picture(path, plan)} for path, plan in sorted(plans.items())]
    return [picture for picture in drawn if picture["chart"]]


def _picture(path, plan):
    name, bars = Path(path).stem.replace(".", " "), [_bar(group, plan) for group in _in_order(plan)]
    chart = charts.draw("effects", _finite(bars), f"Effect of each group of nodes of {name} on the logits")
    return {"name": name, "link": comparison.link_of(path), "chart": chart}


def _in_order(plan):
    position = {name: number for number, name in enumerate(plan.get("graph", ()))}
    return sorted(plan.get("groups", ()), key=lambda group: min(position.get(name, 0) for name in group["nodes"]))


def _bar(group, plan):
    kept = {node["name"] for node in plan["nodes"]} & set(group["nodes"])
    effect = "not finite" if group["effect"] is None else f"{100 * group['effect']:.2g} % of the logits' spread"
    count = f"{len(kept)} of {len(group['nodes'])} nodes kept" if kept else f"{len(group['nodes'])} nodes"
    value = None if group["effect"] is None else 100 * group["effect"]
    color = "var(--c3)" if kept else "var(--c0)"
    return {"name": group["name"], "value": value, "color": color, "label": f"{group['name']}: {effect}, {count}"}


def _finite(bars):
    """Return bars of which those without a value are as high as the highest."""
    highest = max((bar["value"] for bar in bars if bar["value"] is not None), default=1.0)
    return [{**bar, "value": highest if bar["value"] is None else bar["value"]} for bar in bars]


def _criterion(plan):
    limits = [text.format(plan["criterion"][key]) for key, text in CRITERION.items() if key in plan["criterion"]]
    return ", ".join(limits)


def table(rows: list[dict]) -> dict[str, Any] | None:
    """Return the table of what plans keep, beside what was predicted of it and what the engine does on select."""
    caption = "Nodes kept, and top-1 on the select split with its 95 % interval"
    return tables.table("plans-table", caption, map(_row, rows))


def _row(row):
    result, plan = row["result"], row["result"]["plan"]
    scores = plan["select"] or {}
    cells = {
        "plan": Cell(comparison.title_of(result), link=row["link"]),
        "nodes kept": Cell(_kept(plan), plan["nodes_high_precision"]),
        "simulated top-1 %": _score(scores.get("simulated")),
        "typed graph top-1 %": _score(scores.get("typed")),
        "engine top-1 %": _score(scores.get("engine"), BAD if plan["met"] is False else ""),
        "builds": text(result["engine"]["engine_builds"]),
        "evidence": text(row["why"]),
    }
    return Row(cells)


def _kept(plan):
    return f"{plan['nodes_high_precision']} of {plan['nodes_total']}"


def _score(score, style=""):
    return percent(score["top1"], score["num_images"], style) if score else Cell()


def bisections(rows: list[dict]) -> dict[str, Any] | None:
    """Return the table that sets plans beside the bisections that they replace, where any was made."""
    caption = "Beside bisection, as the original looked for the layers that must stay in FP32"
    pairs = [(row["result"], row["bisect"]) for row in rows if row["bisect"]]
    return tables.table("bisections-table", caption, [row for pair in pairs for row in _bisected(*pair)])


def _bisected(result, bisect):
    engine, nodes = result["engine"], text(f"{_kept(result['plan'])} nodes")
    ways = [
        ("plan", engine["engine_builds"], engine["build_seconds"], nodes),
        ("bisection", bisect["builds"], bisect["seconds"], _outcome(bisect)),
    ]
    for way, builds, seconds, outcome in ways:
        named = {"engine": text(comparison.title_of(result)), "found by": text(way), "engine builds": text(builds)}
        yield Row({**named, "seconds of building": number(seconds), "kept": outcome})


def _outcome(bisect):
    """Return how many layers a bisection keeps, or why it found no number that is enough."""
    if bisect["met"]:
        return text(f"the first {bisect['kept']} of {bisect['layers']} layers")
    return text(f"no number of its {bisect['layers']} layers is enough", BAD, bisect.get("error") or "")
