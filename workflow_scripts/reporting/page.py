"""The report as one HTML page: tables from comparison.py, a plot from plot.py, looks from page.html."""

from pathlib import Path

from reporting import comparison, plans, plot

TEMPLATE = Path(__file__).with_name("page.html")


def render(paths, published, plan_paths=(), bisect_paths=()):
    """Return the page for the files of results, plans and bisections; published: {model: ImageNet top-1 in percent}."""
    import jinja2

    results, planned, bisected = comparison.load(paths), plans.load(plan_paths), plans.load(bisect_paths)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    targets = sorted({result["target"] for result in results})
    precisions = comparison.ordered(result["precision"] for result in results)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        results=results,
        grids=comparison.grids(results),
        precisions=precisions,
        plots=_plots(results, precisions, targets),
        notes=comparison.notes(results),
        plans=plans.rows(results, planned, bisected),
        pictures=plans.pictures(planned),
        published=comparison.published_grid(results, published),
        timing=comparison.timing,
        ratio=comparison.ratio,
        spoken=comparison.spoken,
        look=comparison.look,
        dataset=comparison.dataset,
        targets=targets,
        marks=plot.MARKS,
    )


def _plots(results, precisions, targets):
    """Return a plot for each dataset, or part of one: accuracies on other images do not compare."""
    found = []
    for seen in sorted({comparison.looked_at(result) for result in results}):
        here = [result for result in results if comparison.looked_at(result) == seen]
        dots = [_dot(result, precisions, targets) for result in here]
        found.append({"dataset": comparison.dataset(here[0]), "plot": plot.scatter(dots)})
    return found


def _dot(result, precisions, targets):
    entry = max(result["benchmark"], key=lambda e: e["batch"])
    name = f"{result['model']} {result['precision']} on {result['target']}"
    speed, top1 = entry["images_per_second"], result["accuracy"]["top1"]
    label = f"{name}: {top1:.2f} %, {speed:.1f} images/s at batch {entry['batch']}"
    color, mark = precisions.index(result["precision"]), targets.index(result["target"])
    return {"x": speed, "y": top1, "color": color, "mark": mark, "label": label}
