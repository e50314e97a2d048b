"""Write results as one tab-separated table, or print a table of models by precisions per dataset and target."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from core.command import Command, Job
from core.files import UserError
from reporting import comparison, over_pytorch


def run(args: Job) -> None:
    table = over_pytorch.table_of(comparison.load(args.results))
    rows = [[*comparison.COLUMNS, *over_pytorch.COLUMNS], *(map(_cell, row.values()) for row in table)]
    Path(args.summary).write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def _cell(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def show(folder: str = "results") -> list[str]:
    """Print the results in a folder, a table per dataset and target; return a line for each unreadable file."""
    results, problems = readable(sorted(map(str, Path(folder).glob("*.*.*.json"))))
    for grid in comparison.grids(results):
        print(f"\n{grid['dataset']} on {grid['target']} ({grid['device']})")
        table = [["", "", *grid["precisions"]]]
        for model, by_precision in grid["models"]:
            table += _lines(results, model, [by_precision.get(p) for p in grid["precisions"]], grid["batches"])
        _print(table)
        chosen = [comparison.chosen_of(result) for _, row in grid["models"] for result in row.values()]
        print("".join(f"{line}\n" for line in chosen if line), end="")
    notes = comparison.notes(results) + over_pytorch.notes(results)
    if notes:
        print("\n" + "\n".join(notes))
    if any(not result["accuracy"]["within_budget"] for result in results):
        print("! top-1 lost more than the precision's budget against PyTorch FP32")
    return problems


def readable(paths: Iterable[str]) -> tuple[list[dict], list[str]]:
    """Return the results in the files, and a line for each file that is not a result or was changed."""
    results: list[dict] = []
    problems: list[str] = []
    for path in paths:
        try:
            results += comparison.load([path])
        except UserError as problem:
            problems.append(f"error: {problem}")
    return comparison.in_order(results), problems


def _lines(results, model, row, batches):
    lines = [[model, "top-1 %", *(_accuracy(result) for result in row)]]
    for batch in batches:
        lines.append(["", f"images/s @{batch}", *(_speed(results, result, batch) for result in row)])
        over = [over_pytorch.format_over(over_pytorch.over_pytorch(results, r, batch)) if r else "" for r in row]
        lines += [["", f"over PyTorch @{batch}", *over]] if any(over) else []
    return lines


def _accuracy(result):
    if result is None:
        return ""
    mark = f" {comparison.BARELY_INT8}" if comparison.is_barely_int8(result) else ""
    return f"{result['accuracy']['top1']:.2f}" + ("" if result["accuracy"]["within_budget"] else " !") + mark


def _speed(results, result, batch):
    entry = comparison.timing(result, batch) if result else None
    if entry is None:
        return ""
    speed = f"{entry['images_per_second']:.0f}" + comparison.marks_of(entry)
    return f"{speed} {comparison.format_ratio(comparison.ratio(results, result, batch))}".strip()


def _print(table):
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [cell.ljust(width) if n < 2 else cell.rjust(width) for n, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


def command() -> Command:
    return Command(__file__, __doc__).input("--results", nargs="*", default=[]).output("--summary")


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.exit("\n".join(show()) or 0)
    else:
        command().run(run)
