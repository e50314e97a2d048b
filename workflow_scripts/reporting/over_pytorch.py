"""Speeds over PyTorch's: what an engine gains over what most people run today. Standard library only.

A ratio is of the same model, images, batch, machine and device. Timings in turns (compare_pytorch.py) take precedence;
else it is over the fastest PyTorch result within its accuracy budget, from two separate timings.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from measure import paired
from reporting import comparison
from reporting.comparison import LEVEL, SEPARATE, UNSTABLE, Ratio, images_of, timing

RUNTIME = "pytorch"
COLUMNS = ("ratio_to_pytorch", "pytorch", "pytorch_taken")  # of the summary, after comparison.COLUMNS


class Over(NamedTuple):
    """A Ratio of a speed to PyTorch's; `name`: PyTorch's precision and target."""

    ratio: Ratio
    name: str


def over_pytorch(results: list[dict], result: dict, batch: int) -> Over | None:
    """Return a result's speed over PyTorch's at a batch size; None for PyTorch itself, and without a timing of it."""
    if result["target_identity"].get("runtime") == RUNTIME:
        return None
    return _in_turns(result, batch) or _apart(results, result, batch)


def _in_turns(result, batch):
    compared = result.get("over_pytorch")
    entry = next((e for e in compared["batches"] if e["batch"] == batch), None) if compared else None
    if entry is None:
        return None
    mark = UNSTABLE if not entry["stable"] else LEVEL if paired.is_level(entry) else ""
    return Over(Ratio(entry["ratio"], entry["low"], entry["high"], mark), compared["pytorch"])


def _apart(results, result, batch):
    own = timing(result, batch)
    if own is None or not own.get("machine"):
        return None
    rivals = [(timing(other, batch), other) for other in results if _is_comparable(other, result)]
    timed = [(entry, other) for entry, other in rivals if entry and entry.get("machine") == own["machine"]]
    if not timed:
        return None
    entry, other = max(timed, key=lambda one: one[0]["images_per_second"])
    mark = SEPARATE if own["stable"] and entry["stable"] else SEPARATE + UNSTABLE
    value = own["images_per_second"] / entry["images_per_second"]
    return Over(Ratio(value, None, None, mark), f"{other['precision']}.{other['target']}")


def _is_comparable(other, result):
    """Return whether a result is PyTorch's own within its budget, of the same model, images and device."""
    one, two = ((r["model"], images_of(r), r["target_identity"].get("device")) for r in (other, result))
    is_own = other["target_identity"].get("runtime") == RUNTIME and not other["chosen"]
    return is_own and one == two and other["accuracy"]["within_budget"]


def format_over(over: Over | None) -> str:
    """Return the text of an Over: the ratio, over which PyTorch it is, the mark, and whether it is slower; or ""."""
    if over is None:
        return ""
    text = f"{over.ratio.value:.2f}x {over.name} {over.ratio.mark}".strip()
    return text if over.ratio.value >= 1 else f"{text} (slower)"


def notes(results: list[dict]) -> list[str]:
    """Return the lines that explain the ratios over PyTorch, where the results have any; one names what is slower."""
    timed = [(r, e["batch"], over_pytorch(results, r, e["batch"])) for r in results for e in r["benchmark"]]
    ratios = [(f"{r['precision']}.{r['target']} @{batch}", over) for r, batch, over in timed if over]
    slower = [name for name, over in ratios if over.ratio.value < 1]
    lines = [f"slower than PyTorch: {', '.join(slower)}"] if slower else []
    if any(SEPARATE in over.ratio.mark for _, over in ratios):
        lines.append("over PyTorch, not in turns: `pytorch: fp32.torch` in a target's row times both in turns")
    return lines


def table_of(results: list[dict]) -> list[dict[str, Any]]:
    """Return the rows of the summary, {column: value} for each result and batch size, with the ratio over PyTorch."""
    overs = [over_pytorch(results, result, entry["batch"]) for result in results for entry in result["benchmark"]]
    return [{**row, **_columns(over)} for row, over in zip(comparison.table_of(results), overs)]


def _columns(over):
    way = over and ("apart" if over.ratio.low is None else "in turns")
    return dict(zip(COLUMNS, (over and over.ratio.value, over and over.name, way)))
