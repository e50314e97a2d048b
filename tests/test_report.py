"""The summary, the printed table and the page, from results as the workflow writes them."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import summarize
from conftest import ROOT
from drawing import page, plot, rows
from files import UserError

SPREAD = {"mean": 2.0, "median": 1.9, "p90": 2.2, "p95": 2.4, "p99": 2.9, "min": 1.5, "max": 3.0}


def result(precision, speed, model="LeViT-128S", target="cpu", top1=98.0, stable=True, within=True):
    entries = [
        {"batch": batch, "images_per_second": speed * batch**0.5, "latency_ms": SPREAD, "stable": stable, "threads": 2}
        for batch in (1, 16)
    ]
    return {
        **{"model": model, "precision": precision, "target": target, "benchmark": entries},
        "dataset": {"name": "digits", "split": "val", "num_images": 360, "num_classes": 10},
        "accuracy": {"top1": top1, "top5": 100.0, "agreement_with_fp32": 99.7, "within_budget": within, "budget": 0.3},
        "engine": {"bytes": 28_000_000, "layers": 90, "precision_of_layers": {"int8": 60, "fp32": 30}},
        "trtexec": [{"batch": 16, "median_compute_ratio": 1.0125}] if target == "gpu" else None,
        "target_identity": {"device": "A <CPU> & more", "runtime": "openvino", "version": "2026.4.1"},
        "provenance": {"versions": {"openvino": "2026.4.1"}},
    }


@pytest.fixture
def files(tmp_path):
    found = [
        result("int8_qat", 1000.0),
        result("fp32", 400.0),
        result("bf16", 800.0, top1=90.0, within=False, stable=False),
        result("int8_qat", 300.0, model="LeViT-384"),
    ]
    (tmp_path / "results").mkdir()
    for one in found:
        name = f"{one['model']}.{one['precision']}.{one['target']}.json"
        (tmp_path / "results" / name).write_text(json.dumps(one))
    return tmp_path, sorted(map(str, (tmp_path / "results").iterdir()))


def run(folder, script, *args):
    command = [sys.executable, str(ROOT / "workflow_scripts" / script), *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_summary_has_a_line_per_result_and_batch(files):
    folder, paths = files
    assert run(folder, "summarize.py", "--results", *paths, "--summary", "s.tsv").returncode == 0
    table = list(csv.DictReader((folder / "s.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(table) == 8 and list(table[0]) == list(rows.COLUMNS)
    ratios = {(r["model"], r["precision"], r["batch"]): r["ratio_to_fp32"] for r in table}
    assert ratios["LeViT-128S", "int8_qat", "16"] == "2.5000" and ratios["LeViT-128S", "fp32", "1"] == "1.0000"
    assert ratios["LeViT-384", "int8_qat", "1"] == ""  # no FP32 of that model was measured
    assert {r["stable"] for r in table if r["precision"] == "bf16"} == {"no"}


def test_summary_has_the_ratio_to_trtexec_where_that_was_measured():
    table = rows.flat([result("fp32", 400.0), result("fp32", 400.0, target="gpu")])
    assert [row["ratio_to_trtexec"] for row in table] == [None, None, None, 1.0125]


def test_summary_of_nothing_is_a_header(files):
    folder, _ = files
    assert run(folder, "summarize.py", "--summary", "s.tsv", "--results").returncode == 0
    assert (folder / "s.tsv").read_text().splitlines() == ["\t".join(rows.COLUMNS)]


def test_printed_table_marks_what_should_not_be_overlooked(files):
    text = run(files[0], "summarize.py", "--print").stdout
    assert re.search(r"^ +fp32 +bf16 +int8_qat$", text, re.MULTILINE)
    assert re.search(r"^LeViT-128S +top-1 % +98.00 +90.00 ! +98.00$", text, re.MULTILINE)
    assert re.search(r"images/s @1 +400 \(1.00x\) +800 ~ \(2.00x ~\) +1000 \(2.50x\)$", text, re.MULTILINE)
    assert "~ timing not stable" in text and "! top-1 lost more" in text


def test_printing_where_there_is_no_result_says_nothing(tmp_path, capsys):
    summarize.show(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match="x.json is not a result"):
        rows.load([tmp_path / "x.json"])


class Page(HTMLParser):
    """Collects open elements (all must close), dots and what would be loaded from elsewhere."""

    VOID = {"meta", "br", "line"}

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def __init__(self, text):
        super().__init__()
        self.open, self.dots, self.foreign = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.foreign += [value for name, value in attrs if name in ("src", "href") or "://" in (value or "")]
        self.dots += [attrs] if tag == "path" and ("class", "dot") in [(n, v.split()[0]) for n, v in attrs] else []
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_escaped(files):
    text = page.render(files[1], {"LeViT-128S": 76.6})
    read = Page(text)
    assert read.open == [] and read.foreign == [] and "@import" not in text and "url(" not in text
    assert "A &lt;CPU&gt; &amp; more" in text and "<CPU>" not in text
    assert len(read.dots) == 4 and "76.6" in text and "(2.50x)" in text and "not stable" in text
    assert "60 int8, 30 fp32" in text


FIVE = {"LeViT-128S": 76.6, "LeViT-128": 78.6, "LeViT-192": 80.0, "LeViT-256": 81.6, "LeViT-384": 82.6}


def on(name, images, classes, **options):
    return {
        **result("fp32", 1.0, **options),
        "dataset": {"name": name, "split": "val", "num_images": images, "num_classes": classes},
    }


def test_published_accuracies_stand_beside_what_was_measured_on_the_same_images_alone():
    others = [on("digits", 360, 10, top1=98.0), on("part", 5000, 1000, top1=77.7), on("other", 50_000, 999, top1=77.8)]
    nothing = rows.published_grid(others, FIVE)
    assert nothing == {"columns": ["ours"], "models": [(model, top1, [None]) for model, top1 in FIVE.items()]}
    measured = [
        on("imagenet", 50_000, 1000, top1=76.5),
        on("imagenet", 50_000, 1000, top1=82.5, model="LeViT-384", target="ort"),
    ]
    grid = rows.published_grid(others + measured, FIVE)
    assert grid["columns"] == ["fp32 on cpu", "fp32 on ort"]
    assert grid["models"][0] == ("LeViT-128S", 76.6, [76.5, None])
    assert grid["models"][4] == ("LeViT-384", 82.6, [None, 82.5]) and grid["models"][1][2] == [None, None]


def test_page_keeps_published_accuracies_apart_from_other_datasets(files):
    text = page.render(files[1], FIVE)
    table = text[text.index("<h2>ImageNet</h2>") : text.index("<h2>cpu</h2>")]
    assert all(f"<td>{top1:.1f}</td>" in table for top1 in FIVE.values())
    assert table.count("<td></td>") == 5 and "98.00" not in table, "ours is empty until it is measured"
    rest = text.replace(table, "")
    assert not any(f">{top1:.1f}<" in rest for top1 in FIVE.values()) and "98.00" in rest


def test_page_of_nothing_says_so():
    assert "No result has been measured yet" in page.render([], {})


def test_page_is_the_same_twice(files):
    folder, paths = files
    for name in ("a.html", "b.html"):
        done = run(folder, "report.py", "--results", *paths, "--models", '{"LeViT-128S": 76.6}', "--report", name)
        assert done.returncode == 0, done.stderr
    assert (folder / "a.html").read_bytes() == (folder / "b.html").read_bytes()


def test_dots_lie_inside_the_plot_in_their_order():
    drawn = plot.scatter([{"x": 10.0, "y": 70.0}, {"x": 1000.0, "y": 80.0}, {"x": 100.0, "y": 75.0}])
    slow, fast, middle = drawn["dots"]
    assert drawn["left"] < slow["px"] < middle["px"] < fast["px"] < drawn["right"]
    assert drawn["top"] < fast["py"] < middle["py"] < slow["py"] < drawn["bottom"]
    assert middle["px"] - slow["px"] == pytest.approx(fast["px"] - middle["px"], abs=0.2)  # logarithmic
    assert drawn["x_ticks"] and drawn["y_ticks"]


def test_one_dot_and_none_can_be_drawn():
    assert plot.scatter([{"x": 400.0, "y": 100.0}])["dots"] and plot.scatter([]) is None
