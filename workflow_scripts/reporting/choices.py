"""Tables of what precisions that choose have chosen from. Standard library only."""

from __future__ import annotations

from typing import Any

from reporting import comparison, tables
from reporting.tables import BAD, GREY, Cell, Row, number, percent, text, throughput


def table_of(result: dict) -> dict[str, Any] | None:
    """Return the table of candidates of a result that chooses."""
    name = f"choice-{comparison.name_of(result)}".replace(".", "-")
    caption = (
        f"{comparison.chosen_of(result)}, on {result['target']}, {comparison.format_dataset(result)}. "
        "Speeds are over the chosen one's, in turns; top-1 and points lost are of the select split"
    )
    return tables.table(name, caption, [_row(result, one) for one in result["candidates"]])


def _row(result, one):
    latency, paired = one["latency_ms"] or {}, one["paired"]
    over = Cell()
    if paired:
        over = Cell(f"{paired['ratio']:.2f}x", paired["ratio"], small=f"{paired['low']:.2f} to {paired['high']:.2f}")
    cells = {
        "candidate": text(one["precision"]),
        "batch": text(one["batch"]),
        "images/s": throughput(one["images_per_second"], "timed apart" if one["taken"] == "apart" else ""),
        "median ms": number(latency.get("median"), "{:.3f}"),
        "p99 ms": number(latency.get("p99"), "{:.3f}", BAD if one["within_limit"] is False else ""),
        "over the chosen": over,
        "top-1 %": percent(one["top1"], _selected(result)),
        "points lost": number(one["lost"], "{:.2f}", "" if one["within_budget"] else BAD),
        "verdict": text(one["verdict"]),
    }
    chosen = one["precision"] == result["chosen"] and result["chosen_batch"] in (None, one["batch"])
    return Row(cells, "best" if chosen else "" if one["stable"] else GREY)


def _selected(result):
    """Return the number of images of the select split, or None where the result does not tell."""
    splits = (result["provenance"]["recipe"].get("dataset") or {}).get("splits") or {}
    score = ((result["plan"] or {}).get("select") or {}).get("engine")
    return score["num_images"] if score else splits.get("select")
