"""The page as text: what its sentences, tables, charts and sections say of results, and that nothing leaves it."""

import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from test_report import STEADY, choice, on, result

import recorded_gpu
from conftest import ROOT
from core import history
from measure import proportion
from reporting import charts, layers, page, recommend

GROUPS = [
    {"name": "stages.0.blocks.0.mlp", "nodes": ["stages.0.blocks.0.mlp.ln1/Gemm"], "effect": 0.02},
    {"name": "stem.conv1", "nodes": ["stem.conv1/Conv", "stem.act1/Mul"], "effect": 0.1},
    {"name": "head", "nodes": ["head/Gemm"], "effect": None},
]
PLAN = {
    "criterion": {"budget": 0.3, "agreement": 99.0},
    "nodes": [{"name": "stem.conv1/Conv", "evidence": {"reason": "overflow", "effect": None}}],
    "graph": ["stem.conv1/Conv", "stem.act1/Mul", "stages.0.blocks.0.mlp.ln1/Gemm", "head/Gemm"],
    "groups": GROUPS,
}
BISECT = {"builds": 10, "seconds": 628.4, "layers": 749, "kept": 398, "met": True}
LAYERS = [
    {"name": "stem.conv1/Conv", "type": "Convolution", "precision": "int8", "ms": 0.3, "share": 0.75},
    {"name": "reorder <1>", "type": "Reorder", "precision": "fp32", "ms": 0.1, "share": 0.25},
]
CALIBRATION = {"amax": {"stem.conv1.input_quantizer": 2.5, "head.weight_quantizer": [0.1, 0.3], "dead": 0.0}}
FIVE = {"LeViT-128S": 76.6, "LeViT-384": 82.6}


class Page(HTMLParser):
    """A page as read: elements that stay open, ids, links, what would be loaded, tables, and the text of sections."""

    VOID = {"meta", "br", "input", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.loaded, self.tables, self.labels = [], [], [], [], {}, []
        self.row = self.text = None
        self.feed(text)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "data") or "://" in (value or "")]
        self.labels += [found["aria-label"]] if found.get("role") == "graphics-symbol" and "aria-label" in found else []
        self.open += [] if tag in self.VOID else [tag]
        if tag == "table":
            self.rows = self.tables.setdefault(found["id"], [])
        if tag == "tr":
            self.row = {"class": found.get("class", ""), "batch": found.get("data-batch"), "cells": []}
            self.rows.append(self.row)
        if tag in ("td", "th"):
            self.text = []

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.row["cells"].append(" ".join("".join(self.text).split()))
            self.text = None

    def handle_data(self, data):
        if self.text is not None:
            self.text.append(data)

    def table(self, name):
        """Return the rows of a table as {heading: text}."""
        head, *rows = self.tables[name]
        return [dict(zip(head["cells"], row["cells"]), style=row["class"], batch=row["batch"]) for row in rows]


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """A function that writes results and draws the page, with charts on request; more: {kind: {path: value}}."""
    monkeypatch.chdir(tmp_path)
    library = charts.converter()

    def write(path, value):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def draw(results, published=None, charted=False, **more):
        monkeypatch.setattr(charts, "converter", lambda: library if charted else None)
        paths = [write(f"results/{r['model']}.{r['precision']}.{r['target']}.json", r) for r in results]
        evidence = {kind: [write(*item) for item in files.items()] for kind, files in more.items()}
        return page.render(paths, published or {}, **evidence)

    return draw


SEVERAL = [
    result("int8_qat", 1000.0),
    result("fp32", 400.0),
    result("bf16", 800.0, top1=90.0, within=False, stable=False),
    result("int8_qat", 300.0, model="LeViT-384"),
]


def test_a_page_is_whole_self_contained_and_escaped(draw):
    text = draw(SEVERAL, charted=True)
    read = Page(text)
    assert read.open == read.loaded == [] and "@import" not in text and "url(" not in text
    assert len(read.ids) == len(set(read.ids))
    assert set(re.findall(r'aria-labelledby="([^"]*)"', text)) <= set(read.ids)
    assert "A &lt;CPU&gt; &amp; more" in text and "<CPU>" not in text
    policy = re.search(r'content="(default-src \'none\'[^"]*)"', text).group(1)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy and "unsafe-eval" not in policy and "http" not in policy


def test_a_row_is_an_engine_at_a_batch_size(draw):
    read = Page(draw(SEVERAL))
    rows, inside = read.table("engines-table"), read.table("engines-inside")
    assert [row["engine"] for row in inside] == [row["engine"] for row in rows[::2]] and inside[0][
        "INT8 MACs %"
    ] == "92"
    assert len(rows) == 8 and sum("best" in row["batch"] for row in rows) == 4
    fast = next(row for row in rows if row["engine"] == "LeViT-128S int8_qat" and row["batch"] == "16 best")
    low, high = proportion.interval(98.0, 360)
    assert fast["top-1 %"] == f"98.00 {low:.1f} to {high:.1f}" and fast["images/s"] == "4,000"
    assert fast["over FP32"] == "2.50x timed apart"
    assert "mJ an image" not in fast and "over PyTorch" not in fast, "nothing empty is shown"


def test_what_is_not_stable_is_grey_with_the_command_that_times_it_again(draw):
    rows = Page(draw(SEVERAL)).table("engines-table")
    styles = {row["engine"]: row["style"] for row in rows}
    assert styles == {
        "LeViT-128S int8_qat": "",
        "LeViT-128S fp32": "",
        "LeViT-128S bf16": "grey",
        "LeViT-384 int8_qat": "",
    }
    loaded = next(row for row in rows if row["engine"] == "LeViT-128S bf16")
    assert "make retime RESULT=results/LeViT-128S.bf16.cpu.json" in loaded["remarks"]
    assert "timing not stable, loses more than 0.3 points" in loaded["remarks"]


def headline(text):
    """Return what the first recommendation of a page says, without its marks."""
    part = re.search(r'<div class="pick">(.*?</p>)', text, re.DOTALL).group(1)
    return " ".join(re.sub(r"<[^>]*>", " ", part).split())


def test_the_headline_is_what_was_chosen_and_why(draw):
    verdicts = [
        {"precision": "fp32", "batch": 1, "verdict": "slow", "paired": {"ratio": 0.4, "low": 0.39, "high": 0.41}},
        {"precision": "int8_qat", "batch": 1, "verdict": "chosen: the fastest within the budget"},
    ]
    one = {"images_per_second": 9.0, "top1": 98.0, "lost": 1.0, "within_budget": True, "stable": True}
    turns = choice({"fp32": [1.08 * ms for ms in STEADY[::-1]], "int8_qat": STEADY})
    auto = {
        **turns,
        "candidates": [{**one, **verdict} for verdict in verdicts],
        "chosen_batch": 1,
        "objective": "latency",
    }
    auto["engine"] = SEVERAL[0]["engine"]
    text = draw([*SEVERAL, auto])
    said = headline(text)
    assert said.startswith("LeViT-128S on cpu: run int8_qat at batch 1 images/s "), said
    assert "Why: the fastest within the budget; chosen for latency among fp32, int8_qat." in said
    assert said.endswith("To deploy it: snakemake results/digits/bundles/LeViT-128S.auto.cpu.tar.gz")
    assert "times FP32 1.08 Why" in said and "% top-1 96.0 to 99.0 98.0" in said
    rows = Page(text).table("choice-LeViT-128S-auto-cpu")
    assert [row["style"] for row in rows] == ["", "best"] and rows[0]["over the chosen"] == "0.40x 0.39 to 0.41"
    assert "top-1 %" in rows[0] and rows[1]["verdict"].startswith("chosen")


@pytest.mark.parametrize(
    "results, name, why",
    [
        (SEVERAL[:3], "int8_qat", "the highest throughput of the 2 engines within their accuracy budgets, by sep"),
        ([SEVERAL[2]], "bf16", "no engine is within its budget of lost top-1 points; this one has the highest top-1"),
        ([result("fp32", 9.0, stable=False), result("int8_qat", 1.0)], "int8_qat", "the highest throughput of the 2"),
    ],
    ids=("fastest within budget", "none within budget", "stable before fast"),
)
def test_without_a_choice_the_fastest_within_budget_is_recommended(draw, results, name, why):
    draw(results)
    completed = page.comparison.load(sorted(f"results/{r['model']}.{r['precision']}.cpu.json" for r in results))
    (found,) = recommend.recommendations(completed)
    assert found["name"] == name and found["why"].startswith(why)


def test_results_of_the_h200_are_recommended_and_shown(draw):
    text = draw(recorded_gpu.results())
    rows = Page(text).table("engines-table")
    assert len(rows) == 7 and {row["style"] for row in rows} == {""}, "one precision was not timed at batch 1"
    said = headline(text)
    assert "LeViT-128S on gpu: run fp16 at batch 64" in said and "Measured on NVIDIA H200, tensorrt 8.5.3.1." in said


def test_targets_and_datasets_have_their_own_headlines_and_tables(draw):
    part = on("num", 90, 12, precision="bf16")
    part["dataset"]["subset"] = {"classes": None, "images": 90}
    others = [on("tset", 50, 2, precision="fp32"), on("num", 360, 12, precision="int8_qat"), part]
    text = draw([*others, result("fp32", 30.0, target="gpu")])
    assert text.count('<h2 class="headline">') == 4
    read = Page(text)
    assert [name for name in read.tables if re.match("engines.*table", name)] == ["engines-table"] + [
        f"engines-{n}-table" for n in (2, 3, 4)
    ]
    assert all(
        f'<h2 id="engines{end}">Engines on {name}</h2>' in text for end, name in (("", "digits"), ("-4", "tset"))
    )


def test_charts_are_vega_lites_and_tell_what_they_draw(draw):
    read = Page(draw(SEVERAL, charted=True))
    labels = [label for label in read.labels if label.startswith("LeViT-128S bf16: 90.00 %")]
    assert labels[0] == "LeViT-128S bf16: 90.00 % (86.5 to 92.7), 3,200 images/s at batch 16"
    assert len(labels) == 6, "three choices of the batch size, for wide and narrow screens"


def test_without_vl_convert_tables_stand_alone(draw):
    text = draw(SEVERAL, plans={"results/digits/plans/LeViT-128S.int8_qat.json": PLAN})
    read = Page(text)
    assert "<svg" not in text and "<figure" not in text and read.open == []
    assert {"engines-table", "plans-table", "provenance-table"} <= set(read.tables)


def test_downloads_are_the_summary_and_the_results(draw):
    text = draw(SEVERAL)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL).group(1))
    rows = list(csv.DictReader(io.StringIO(data["csv"])))
    assert len(rows) == 8 and rows[0]["model"] == "LeViT-128S" and len(data["results"]) == 4
    assert data["results"][0]["target_identity"]["device"] == "A <CPU> & more"


PLANS, BISECTS = "results/digits/plans/LeViT-128S.int8_qat.json", "results/digits/bisect/LeViT-128S.int8_qat.cpu.json"


def test_plans_their_evidence_and_the_bisection_beside_them(draw):
    text = draw(SEVERAL[:1], charted=True, plans={PLANS: PLAN}, bisects={BISECTS: BISECT})
    read = Page(text)
    (plan,) = [row for row in read.table("plans-table") if row["plan"].startswith("LeViT-128S")]
    assert plan["nodes kept"] == "3 of 246" and plan["evidence"] == "stem.conv1/Conv: overflow, not finite"
    assert plan["simulated top-1 %"].startswith("98.50 95.") and plan["engine top-1 %"].startswith("97.25")
    assert "digits/plans/LeViT-128S.int8_qat.json" in read.links
    assert '<td class="number bad" data-label="engine top-1 %">97.25' in text, "the engine misses its plan's criterion"
    found = read.table("bisections-table")
    assert found[1]["kept"] == "the first 398 of 749 layers" and found[1]["seconds of building"] == "628.4"
    effects = [label for label in read.labels if re.search(r": .*node", label) and "axis" not in label]
    assert effects[:3] == [
        "stem.conv1: 10 % of the logits' spread, 1 of 2 nodes kept",
        "stages.0.blocks.0.mlp: 2 % of the logits' spread, 1 nodes",
        "head: not finite, 1 nodes",
    ], "in the network's order"


def test_why_a_bisection_found_nothing(draw):
    failed = {**BISECT, "met": False, "kept": None, "error": "no supported formats <x>"}
    text = draw(SEVERAL, plans={PLANS: PLAN}, bisects={BISECTS: failed})
    assert "no number of its 749 layers is enough <small>no supported formats &lt;x&gt;</small>" in text


def test_layers_by_time_where_they_were_profiled_and_by_number_elsewhere(draw):
    own, other = SEVERAL[0], SEVERAL[1]
    profile = {"engine_sha256": own["engine"]["sha256"], "profile": [{"batch": 1, "total_ms": 0.4, "layers": LAYERS}]}
    engines = {
        f"results/digits/engines/LeViT-128S.{name}.cpu.json": {"layers": LAYERS} for name in ("fp32", "int8_qat")
    }
    evidence = {
        "profiles": {"results/digits/profile/LeViT-128S.int8_qat.cpu.json": profile},
        "descriptions": engines,
        "timelines": {"results/digits/timeline/LeViT-128S.int8_qat.cpu.svg": "<svg/>"},
    }
    text = draw([own, other], charted=True, **evidence)
    read = Page(text)
    assert "LeViT-128S int8_qat on cpu: 0.40 ms in 2 layers at batch 1" in text
    assert "LeViT-128S fp32 on cpu: 2 layers by type and precision" in text
    assert "digits/timeline/LeViT-128S.int8_qat.cpu.svg" in read.links
    slow = read.table("layers-LeViT-128S-int8_qat-cpu-1")
    assert [row["layer"] for row in slow] == ["stem.conv1/Conv", "reorder <1>"] and slow[0]["% of the sum"] == "75.0"
    assert "Convolution, int8: 0.300 ms" in read.labels and "Reorder, fp32: 1 layers" in read.labels
    profile["engine_sha256"] = "0" * 64
    assert "0.40 ms in 2 layers" not in draw([own, other], **evidence), "the profile of an older engine"
    unknown = {path: {"layers": None} for path in engines}
    assert "layers by type" not in draw([own, other], descriptions=unknown), "a runtime that cannot read them back"


def test_many_types_of_layers_are_few_bars():
    bars = layers._bars([(f"type {n}", "fp16", 1.0 + n) for n in range(30)], "{:.1f}")
    assert len({bar["type"] for bar in bars}) == layers.TYPES and bars[-1]["type"] == layers.REST
    assert sum(bar["value"] for bar in bars) == sum(range(1, 31))


def test_ranges_in_the_networks_order_and_pictures_of_dlas(draw):
    evidence = {
        "calibrations": {"results/digits/calibration/LeViT-128S.int8_qat.json": CALIBRATION},
        "pictures": {"results/digits/dla/LeViT-128S.int8_dla.xavier.svg": "<svg xmlns='x'/>"},
    }
    text = draw(SEVERAL[:1], charted=True, **evidence)
    read = Page(text)
    ranges = [label for label in read.labels if "quantizer" in label and label.count(":") == 1]
    assert ranges[:2] == ["stem.conv1.input_quantizer: 2.5", "head.weight_quantizer: 0.3, the largest of 2 channels"]
    assert "LeViT-128S int8_qat: 3 quantizers" in text
    assert "digits/dla/LeViT-128S.int8_dla.xavier.json" in read.links
    assert [each.split(",")[0] for each in read.loaded] == ["data:image/svg+xml;base64"]


def test_energy_where_it_was_measured(draw):
    measured = result("fp16", 900.0, target="orin")
    for entry in measured["benchmark"]:
        entry["energy_mj_per_image"] = 12.345
    text = draw([*SEVERAL, measured], charted=True)
    rows = {row["target"]: row for row in Page(text).table("engines-table")}
    assert rows["orin"]["mJ an image"] == "12.35" and rows["cpu"]["mJ an image"] == ""
    assert "<h3>Energy</h3>" in text and "<h3>Energy</h3>" not in draw(SEVERAL)


def test_published_accuracies_stand_beside_what_was_measured_on_imagenet_alone(draw):
    assert "imagenet-table" not in draw(SEVERAL, FIVE), "nothing empty is shown"
    own = on("imagenet", 50_000, 1000, top1=76.5)
    own["accuracy"]["num_images"] = 50_000
    rows = Page(draw([*SEVERAL, own], FIVE)).table("imagenet-table")
    low, high = proportion.interval(76.5, 50_000)
    assert [row["model"] for row in rows] == ["LeViT-128S"] and rows[0]["published"].startswith("76.60")
    assert rows[0]["fp32 on cpu"] == f"76.50 {low:.1f} to {high:.1f}"


def test_provenance_names_hashes_versions_and_the_command(draw):
    made = {**SEVERAL[0]["provenance"], "git_commit": "a" * 40 + "-dirty", "graph_sha256": "b" * 64}
    rows = Page(draw([{**SEVERAL[0], "provenance": made}])).table("provenance-table")
    assert rows[0]["commit"] == "aaaaaaaaaaaa-dirty" and rows[0]["graph"] == "bbbbbbbbbbbb"
    assert rows[0]["make it again"] == "make reproduce RESULT=results/LeViT-128S.int8_qat.cpu.json"
    text = draw([{**SEVERAL[0], "provenance": made}, {**SEVERAL[1], "provenance": made}])
    assert "The same for all: commit aaaaaaaaaaaa-dirty; device A &lt;CPU&gt;" in text
    assert "graph" not in Page(text).table("provenance-table")[0]
    assert "calibration" not in rows[0] and rows[0]["made by"] == "openvino 2026.4.1"


def test_earlier_results_of_a_name_and_what_changed(draw):
    made = {"checkpoint_sha256": "c" * 64, "graph_sha256": "d" * 64, "calibration_sha256": None, "git_commit": None}
    old, new = result("fp32", 400.0, top1=97.0), result("fp32", 500.0)
    old["provenance"] = {**made, "versions": {"openvino": "2025.1", "numpy": "2"}}
    new["provenance"] = {**made, "versions": {"openvino": "2026.4.1", "numpy": "2"}}
    entries = [history.entry(*pair) for pair in ((old, "2026-10-01T00:00:00Z"), (new, "2026-11-01T00:00:00Z"))]
    path = "results/history/LeViT-128S.fp32.cpu.json"
    text = draw([new], charted=True, histories={path: {"entries": entries}})
    read = Page(text)
    first, second = read.table("history-LeViT-128S-fp32-cpu")
    assert first["what changed"] == "first" and first["times the one before"] == ""
    assert second["what changed"] == "openvino 2025.1 to 2026.4.1" and second["times the one before"] == "1.25x"
    assert second["top-1 %"].startswith("98.00 96.0") and second["date (UTC)"] == "2026-11-01 00:00"
    assert "2026-10-01 00:00: 1,600 images/s at batch 16" in read.labels
    assert read.table("provenance-table")[0]["date (UTC)"] == "2026-11-01 00:00"
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL).group(1))
    assert [run["name"][:25] for run in data["runs"]] == ["LeViT-128S.fp32.cpu, 2026"] * 2 and 'id="comparison"' in text
    assert ["images/s at batch 1", "500", 500.0] in data["runs"][0]["facts"]
    alone = draw([new], histories={path: {"entries": entries[1:]}})
    assert 'id="history"' not in alone and 'id="comparison"' not in alone, "nothing empty is shown"


def test_a_page_of_nothing_says_so():
    text = page.render([], {})
    assert "No result has been measured yet" in text and "<table" not in text and "<h2" not in text


def test_a_page_is_the_same_twice(draw, tmp_path):
    draw(SEVERAL[:1])
    results = sorted(str(path) for path in (tmp_path / "results").glob("*.json"))
    for name in ("a.html", "b.html"):
        command = [sys.executable, str(ROOT / "workflow_scripts/report.py"), "--results", *results]
        done = subprocess.run(
            [*command, "--models", "{}", "--carried", "{}", "--report", name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    "top1, count, ends", [(100.0, 360, (98.94, 100.0)), (0.0, 10, (0.0, 27.75)), (50.0, 100, (40.38, 59.62))]
)
def test_intervals_are_wilsons(top1, count, ends):
    assert proportion.interval(top1, count) == pytest.approx(ends, abs=0.01)
