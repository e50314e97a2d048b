"""The table of published ImageNet accuracies beside what was measured on the same images. Standard library only."""

from __future__ import annotations

from typing import Any

from reporting import comparison, tables
from reporting.tables import Row, percent, text


def table_of(results: list[dict], published: dict[str, float]) -> dict[str, Any] | None:
    """Return the table; published: {model: ImageNet top-1 in percent}. None where no result is of ImageNet."""
    grid, count = comparison.published_grid(results, published), comparison.IMAGENET["num_images"]
    columns, rows = ["published", *grid["columns"]], []
    for model, top1, measured in grid["models"]:
        if any(value is not None for value in measured):
            scores = dict(zip(columns, (percent(value, count) for value in (top1, *measured))))
            rows.append(Row({"model": text(model), **scores}))
    caption = "Top-1 % on ImageNet's 50,000 validation images, with 95 % intervals: published, and measured here"
    return tables.table("imagenet-table", caption, rows)
