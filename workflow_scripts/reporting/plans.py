"""Mixed-precision plans as rows: the nodes that each keeps and why, and the bisection that it replaces.

Results name the files by path. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.files import read_json
from reporting import plot

CRITERION = {"budget": "budget {:g} top-1 points", "agreement": "agreement {:g} %", "tolerance": "logits within {:g}"}


def load(paths: Iterable[str]) -> dict[str, dict]:
    """Return {path: parsed file}."""
    return {str(path): read_json(path) for path in paths}


def table_of(results: list[dict], plans: dict[str, dict], bisects: dict[str, dict]) -> list[dict[str, Any]]:
    """Return a row for each engine that was built by a plan: the result, its plan's evidence and its bisection.

    plans, bisects: {path: parsed file}; a missing one is None. Results that choose among engines have no row.
    """
    rows = []
    for result in results:
        if not result["plan"] or result["chosen"]:
            continue
        names = ".".join(result[key] for key in ("model", "precision", "target"))
        bisect = bisects.get(f"results/{result['dataset']['name']}/bisect/{names}.json")
        path = result["plan"]["path"]
        rows.append({"result": result, "link": linked(path), "why": why(plans.get(path)), "bisect": bisect})
    return rows


def linked(path: str) -> str:
    """Return the link to a file from the page, which is in results/."""
    return path[len("results/") :] if path.startswith("results/") else f"../{path}"


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
    """Return a bar chart of each plan's groups, in the network's order: {"name", "link", "criterion", "bars"}."""
    charts = []
    for path, plan in sorted(plans.items()):
        bars = plot.bars([_bar(group, plan) for group in _in_order(plan)])
        if bars:
            name = path.rsplit("/", 1)[1][: -len(".json")].replace(".", " ")
            charts.append({"name": name, "link": linked(path), "criterion": _criterion(plan), "bars": bars})
    return charts


def _in_order(plan):
    """Return a plan's groups in the order of their first nodes."""
    position = {name: number for number, name in enumerate(plan.get("graph", ()))}
    return sorted(plan.get("groups", ()), key=lambda group: min(position.get(name, 0) for name in group["nodes"]))


def _bar(group, plan):
    kept = {node["name"] for node in plan["nodes"]} & set(group["nodes"])
    effect = "not finite" if group["effect"] is None else f"{100 * group['effect']:.2g} % of the logits' spread"
    count = f"{len(kept)} of {len(group['nodes'])} nodes kept" if kept else f"{len(group['nodes'])} nodes"
    parts = group["name"].split(".")
    part = ".".join(parts[:2]) if parts[0] == "stages" else parts[0]
    return {"part": part, "value": group["effect"], "kept": bool(kept), "label": f"{group['name']}: {effect}, {count}"}


def _criterion(plan):
    limits = [text.format(plan["criterion"][key]) for key, text in CRITERION.items() if key in plan["criterion"]]
    return ", ".join(limits)
