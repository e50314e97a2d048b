"""The report as one HTML page: tables from comparison.py, plots from plot.py, the layout from page.html."""

from __future__ import annotations

from collections.abc import Iterable

from reporting import comparison, over_pytorch, plans, plot, template


def render(
    paths: Iterable[str], published: dict[str, float], plan_paths: Iterable[str] = (), bisect_paths: Iterable[str] = ()
) -> str:
    """Return the HTML of results, plans and bisections; published: {model: ImageNet top-1 in percent}."""
    results, planned, bisected = comparison.load(paths), plans.load(plan_paths), plans.load(bisect_paths)
    targets = sorted({result["target"] for result in results})
    precisions = comparison.ordered(result["precision"] for result in results)
    return template.render(
        "page.html",
        results=results,
        grids=comparison.grids(results),
        precisions=precisions,
        plots=_plots(results, precisions, targets),
        notes=comparison.notes(results) + over_pytorch.notes(results),
        plans=plans.table_of(results, planned, bisected),
        pictures=plans.pictures(planned),
        published=comparison.published_grid(results, published),
        timing=comparison.timing,
        is_barely_int8=comparison.is_barely_int8,
        ratio=comparison.ratio,
        format_ratio=comparison.format_ratio,
        over_pytorch=over_pytorch.over_pytorch,
        format_over=over_pytorch.format_over,
        style_of=comparison.style_of,
        marks_of=comparison.marks_of,
        chosen_of=comparison.chosen_of,
        format_dataset=comparison.format_dataset,
        targets=targets,
        marks=plot.MARKS,
    )


def _plots(results, precisions, targets):
    """Return a plot for each dataset, or subset of one: accuracies on other images do not compare."""
    plots = []
    for images in sorted({comparison.images_of(result) for result in results}):
        here = [result for result in results if comparison.images_of(result) == images]
        dots = [_dot(result, precisions, targets, here) for result in here]
        plots.append({"dataset": comparison.format_dataset(here[0]), "plot": plot.scatter(dots)})
    return plots


def _dot(result, precisions, targets, results):
    batch = result["chosen_batch"] or max(entry["batch"] for entry in result["benchmark"])
    entry = next(entry for entry in result["benchmark"] if entry["batch"] == batch)
    took = f" ({comparison.chosen_of(result)})" if result["chosen"] else ""
    name = f"{result['model']} {result['precision']} on {result['target']}{took}"
    speed, top1 = entry["images_per_second"], result["accuracy"]["top1"]
    label = f"{name}: {top1:.2f} %, {speed:.1f} images/s at batch {entry['batch']}"
    over = over_pytorch.format_over(over_pytorch.over_pytorch(results, result, entry["batch"]))
    label += f", over PyTorch {over}" if over else ""
    color, mark = precisions.index(result["precision"]), targets.index(result["target"])
    return {"x": speed, "y": top1, "color": color, "mark": mark, "label": label}
