"""The report as one HTML page: what it shows, as data for the templates in page/. No request leaves the page."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.files import read_json
from reporting import (
    choices,
    comparison,
    engines,
    figures,
    layers,
    made,
    over_pytorch,
    plans,
    published,
    ranges,
    recommend,
    runs,
    tables,
    template,
)
from reporting.comparison import ELSEWHERE, LEVEL, SEPARATE, UNSTABLE

PARTS = Path(__file__).with_name("page")
DOUBTS = {
    SEPARATE: "timed apart",
    UNSTABLE: "timing not stable",
    ELSEWHERE: "on another board",
    LEVEL: "which is faster is not known",
}
SHOWN = 3  # recommendations before those that are folded up


def render(paths: Iterable[str], top1s: dict[str, float], **evidence: Iterable[str]) -> str:
    """Return the HTML of results; top1s: {model: published ImageNet top-1 in percent}.

    evidence: paths of histories, plans, bisects, descriptions of engines, profiles, timelines, calibrations and
    pictures of DLAs.
    """
    results, script = comparison.load(paths), _part("script.js")
    histories = runs.load(evidence.pop("histories", ()))
    compared = runs.runs_of(histories)
    look, shared = figures.Look(results), sorted({comparison.images_of(result) for result in results})
    return template.render(
        "page/page.html",
        results=results,
        recommended=recommend.recommendations(results),
        shown=SHOWN,
        choices=engines.choices_of(results),
        groups=[_group(results, images, number, look) for number, images in enumerate(shared)],
        legend=look.legend(),
        notes=[*comparison.explanations(results).values(), *over_pytorch.notes(results)],
        style_of=comparison.style_of,
        speed=tables.speed,
        doubts=DOUBTS,
        **_evidence(results, top1s, evidence),
        provenance=made.table_of(results, runs.dates(histories)),
        histories=[runs.history_of(*item) for item in sorted(histories.items()) if len(item[1]) > 1],
        compared=compared,
        style=_part("style.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=_inert({"csv": _csv(results), "results": results, "runs": compared}),
    )


def _evidence(results, top1s, evidence):
    parsed = {name: _parsed(evidence.get(name, ())) for name in ("plans", "bisects", "descriptions", "profiles")}
    planned = plans.table_of(results, parsed["plans"], parsed["bisects"])
    timelines = list(map(str, evidence.get("timelines", ())))
    return {
        "published": published.table_of(results, top1s),
        "candidates": [choices.table_of(result) for result in results if result["candidates"]],
        "planned": plans.table(planned),
        "bisections": plans.bisections(planned),
        "effects": plans.pictures(parsed["plans"]),
        "layers": layers.maps_of(results, parsed["descriptions"], parsed["profiles"], timelines),
        "layer_legend": layers.legend(parsed["descriptions"], parsed["profiles"]),
        "ranges": [ranges.chart_of(*item) for item in sorted(_parsed(evidence.get("calibrations", ())).items())],
        "pictures": [_picture(str(path)) for path in evidence.get("pictures", ())],
    }


def _parsed(paths):
    return {str(path): read_json(path) for path in paths}


def _picture(path):
    """Return a picture of a DLA-fit report, as a page embeds it: {name, link, source}."""
    name = Path(path).stem.replace(".", " ")
    source = base64.b64encode(Path(path).read_bytes()).decode()
    return {"name": name, "link": comparison.link_of(path[: -len(".svg")] + ".json"), "source": source}


def _part(name):
    return (PARTS / name).read_text(encoding="utf-8")


def _group(results, images, number, look):
    here = [result for result in results if comparison.images_of(result) == images]
    dataset, count = comparison.format_dataset(here[0]), here[0]["accuracy"]["num_images"]
    caption = (
        f"Accuracy on {count} images of {dataset}, with 95 % intervals; a grey ratio may be a tie or was timed apart"
    )
    name = "engines" if number == 0 else f"engines-{number + 1}"
    return {
        **{"dataset": dataset, "name": name, "charts": figures.of(here, look)},
        "engines": engines.table_of(here, f"{name}-table", caption),
        "inside": engines.inside_of(here, f"{name}-inside"),
    }


def _csv(results):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*comparison.COLUMNS, *over_pytorch.COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(over_pytorch.table_of(results))
    return stream.getvalue()


def _inert(value: Any) -> str:
    """Return the JSON of a value, in which no text ends the script element that it is in."""
    return json.dumps(value, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
