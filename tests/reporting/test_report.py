"""The summary and the printed table, from results as the workflow writes them; the page is test_page.py's."""

import csv
import hashlib
import json
import re
import subprocess
import sys

import pytest

import summarize
from conftest import ROOT
from core import history
from core.files import UserError
from reporting import comparison, engines, labels, over_pytorch, runs

COLUMNS = [*comparison.COLUMNS, *over_pytorch.COLUMNS]

SPREAD = {"mean": 2.0, "median": 1.9, "p90": 2.2, "p95": 2.4, "p99": 2.9, "min": 1.5, "max": 3.0}


def planned(precision):
    """Return the plan of a result."""
    score = {"num_images": 200, "top1": 98.5, "agreement_with_fp32": 99.5}
    select = {"simulated": score, "typed": None, "engine": {**score, "top1": 97.25}}
    path = f"results/digits/plans/LeViT-128S.{precision}.json"
    return {"nodes_total": 246, "nodes_high_precision": 3, "path": path, "met": False, "select": select}


def sha_of(*names):
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def result(precision, speed, model="LeViT-128S", target="cpu", top1=98.0, stable=True, within=True):
    entries = [
        {"batch": batch, "images_per_second": speed * batch**0.5, "latency_ms": SPREAD, "stable": stable, "threads": 2}
        | {"timed": "kept", "power_mode": "15W", "energy_mj_per_image": None}
        for batch in (1, 16)
    ]
    return {
        **{"model": model, "precision": precision, "target": target, "benchmark": entries},
        "dataset": {"name": "digits", "split": "val", "num_images": 360, "num_classes": 10},
        "accuracy": {"top1": top1, "top5": 100.0, "num_images": 360, "agreement_with_fp32": 99.7}
        | {"within_budget": within, "budget": 0.3},
        "engine": {
            "sha256": sha_of(model, precision, target),
            **{"bytes": 28_000_000, "layers": 90, "precision_of_layers": {"int8": 60, "fp32": 30}, "reformats": 1},
            **{"engine_builds": 1, "build_seconds": 2.5, "int8_share_of_macs": 0.92},
        },
        **{"plan": planned(precision) if precision.startswith("int8") else None, "chosen": None, "candidates": None},
        "paired_benchmark": None,
        "trtexec": [{"batch": 16, "median_compute_ratio": 1.0125}] if target == "gpu" else None,
        "target_identity": {"device": "A <CPU> & more", "runtime": "openvino", "version": "2026.4.1"},
        "provenance": {"versions": {"openvino": "2026.4.1"}, "recipe": {}},
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
    assert len(table) == 8 and list(table[0]) == COLUMNS
    ratios = {(r["model"], r["precision"], r["batch"]): r["ratio_to_fp32"] for r in table}
    assert ratios["LeViT-128S", "int8_qat", "16"] == "2.5000" and ratios["LeViT-128S", "fp32", "1"] == "1.0000"
    assert ratios["LeViT-384", "int8_qat", "1"] == ""  # no FP32 of that model was measured
    assert {r["stable"] for r in table if r["precision"] == "bf16"} == {"no"}


def test_summary_has_the_intervals_of_accuracies():
    row = comparison.table_of([result("fp32", 400.0)])[0]
    names = ("top1_low", "top1_high", "top5_low", "top5_high", "agreement_low", "agreement_high")
    assert [round(row[name], 1) for name in names] == [96.0, 99.0, 98.9, 100.0, 98.4, 99.9]
    unknown = result("fp32", 400.0)
    unknown["accuracy"]["top5"] = None
    assert comparison.table_of([unknown])[0]["top5_low"] is None


def on_machines(**machines):
    """Return results of some precisions, each timed on a machine."""
    found = [result(precision, speed) for precision, speed in zip(machines, (1000.0, 400.0))]
    for one, machine in zip(found, machines.values()):
        one["chosen_batch"] = None
        for entry in one["benchmark"]:
            entry["machine"] = machine
    return found


def test_timings_of_two_boards_are_told_apart():
    one, two = "1a" * 16, "2b" * 16
    several = on_machines(int8_qat=one, fp32=two)
    over = comparison.ratio(several, several[0], 1)
    assert (over.value, over.mark) == (2.5, "*#") and comparison.style_of(over) == "ratio"
    assert "# timed on another board than FP32, so that the ratio is that of the boards as well" in comparison.notes(
        several
    )
    assert [comparison.board_of(several, r, r["benchmark"][0]) for r in several] == ["1a1a1a", "2b2b2b"]
    assert [row["machine"] for row in comparison.table_of(several)][::2] == [one[:12], two[:12]]
    table = engines.table_of(several, "t", "caption")
    assert [row.cells["board"].text for row in table["rows"]][::2] == ["1a1a1a", "2b2b2b"]
    for same in (on_machines(int8_qat=one, fp32=one), on_machines(int8_qat=one, fp32=None)):
        assert comparison.ratio(same, same[0], 1).mark == "*"
        assert "board" not in [head["label"] for head in engines.table_of(same, "t", "caption")["columns"]]


def test_a_history_says_that_a_result_moved_to_another_board():
    one, two = (history.entry(on_machines(fp32=machine * 16)[0], "2026-11-01") for machine in ("1a", "2b"))
    assert runs.changes(one, two) == ["board: 2b2b2b"]
    two["benchmark"][0]["power_mode"] = "MAXN"
    assert runs.changes(one, two) == ["board: 2b2b2b", "power mode: MAXN"]
    del one["benchmark"][0]["machine"], one["benchmark"][0]["power_mode"]
    assert runs.changes(one, two) == ["timing alone"], "an older one does not tell"


def crowd(*points):
    """Return rows of charts/pareto.json of (speed, top-1) pairs, all on the front."""
    rows = [{"speed": speed, "top1": top1, "low": top1 - 0.6, "high": top1 + 0.4} for speed, top1 in points]
    return [{**row, "name": f"int8_qat{n}.cpu", "front": True} for n, row in enumerate(rows)]


@pytest.mark.parametrize("width", [760, 240])
def test_labels_of_a_chart_do_not_meet(width):
    rows = crowd((100, 99.0), (105, 98.95), (108, 98.9), (112, 98.7), (300, 98.6), (310, 98.5), (320, 98.4))
    found = labels.placed(rows, width)
    points = labels._pixels(rows, width)
    put = [(row, point) for row, point in zip(found, points) if row["dx"] is not None]
    boxes = [labels._box(x + r["dx"], y + r["dy"], labels.LETTER * len(r["name"]), labels.LINE) for r, (x, y) in put]
    assert len(put) >= (6 if width == 760 else 4)
    assert not any(labels._meet(one, other) for n, one in enumerate(boxes) for other in boxes[:n])
    assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes for x, y in points)
    assert all(box[0] >= -1 and box[2] <= width + 1 for box in boxes)


def test_labels_of_few_points_are_above_them_and_the_fronts_go_first():
    rows = crowd((100, 99.0), (400, 98.0))
    assert [row["dy"] for row in labels.placed(rows, 760)] == [-labels.NEAR] * 2
    (alone,) = labels.placed(crowd((100, 99.0)), 240)
    assert alone["dy"] == -labels.NEAR
    near = crowd((100, 99.0), (101, 99.0), (400, 98.0))
    front, _, behind = labels.placed([{**near[0], "front": False}, *near[1:]], 760)
    assert front["front"] and front["dy"] == -labels.NEAR and not behind["front"] and behind["dy"] != -labels.NEAR


def test_summary_has_the_ratio_to_trtexec_where_that_was_measured():
    table = comparison.table_of([result("fp32", 400.0), result("fp32", 400.0, target="gpu")])
    assert [row["ratio_to_trtexec"] for row in table] == [None, None, None, 1.0125]


def test_summary_of_nothing_is_a_header(files):
    folder, _ = files
    assert run(folder, "summarize.py", "--summary", "s.tsv", "--results").returncode == 0
    assert (folder / "s.tsv").read_text().splitlines() == ["\t".join(COLUMNS)]


def test_summary_has_what_plans_keep_and_predict(files):
    table = {row["precision"]: row for row in comparison.table_of(comparison.load(files[1]))}
    kept = ("nodes_high_precision", "plan_agreement", "reformats", "engine_builds")
    assert [table["int8_qat"][name] for name in kept] == [3, 99.5, 1, 1]
    assert [table["fp32"][name] for name in kept] == [None, None, 1, 1]
    typed = planned("int8_qat")
    typed["select"]["typed"] = {"num_images": 200, "top1": 98.5, "agreement_with_fp32": 98.0}
    assert comparison.predicted({"plan": typed}) == 98.0, "what computes as the engine does is the better prediction"


def test_an_engine_with_little_int8_is_marked(files):
    folder, paths = files
    assert "^" not in run(folder, "summarize.py", "--print").stdout
    slow = result("int8_ptq", 90.0)
    slow["engine"]["int8_share_of_macs"], slow["provenance"]["recipe"] = 0.47, {"precision": {"compute": "int8"}}
    (folder / "results/LeViT-128S.int8_ptq.cpu.json").write_text(json.dumps(slow))
    text = run(folder, "summarize.py", "--print").stdout
    assert re.search(r"^LeViT-128S +top-1 % +98.00 +90.00 ! +98.00 \^ +98.00$", text, re.MULTILINE)
    assert text.count("\n^ less than half of the engine's multiply-accumulates are INT8") == 1


def test_printed_table_marks_what_should_not_be_overlooked(files):
    text = run(files[0], "summarize.py", "--print").stdout
    assert re.search(r"^ +fp32 +bf16 +int8_qat$", text, re.MULTILINE)
    assert re.search(r"^LeViT-128S +top-1 % +98.00 +90.00 ! +98.00$", text, re.MULTILINE)
    assert re.search(r"images/s @1 +400 \(1.00x\) +800 ~ \(2.00x \*~\) +1000 \(2.50x \*\)$", text, re.MULTILINE)
    assert "~ timing not stable" in text and "make retime RESULT=results/LeViT-128S.bf16.cpu.json\n" in text
    assert "! top-1 lost more" in text and "\n* not timed in turns" in text and "\n= " not in text
    assert text.startswith("\ndigits on cpu (A <CPU> & more, openvino 2026.4.1)\n")


STEADY = [1.0, 1.002, 0.998, 1.001, 0.999, 1.0]


def choice(times, precision="auto", batch=1, **options):
    """Return a result of `auto` whose finalists took these milliseconds in each round."""
    engines = [
        {"precision": name, "engine_sha256": sha_of("LeViT-128S", name, "cpu"), "median_ms": several}
        for name, several in times.items()
    ]
    entry = {"batch": batch, "stable": True, "power_mode": None, "timed": "new", "timing_key": None}
    return {
        **result(precision, 1.0, **options),
        "chosen": "int8_qat",
        "paired_benchmark": [{**entry, "engines": engines}],
    }


def ratio_of(results, precision="int8_qat", batch=1):
    return comparison.ratio(results, next(r for r in results if r["precision"] == precision), batch)


def test_a_ratio_is_coloured_only_where_the_two_were_timed_in_turns_and_the_faster_one_is_known():
    """Their own timings say 4.19x; what was timed in turns says 1.08x: case 13."""
    own = [result("fp32", 100.0), result("int8_qat", 419.0)]
    apart = ratio_of(own)
    assert (round(apart.value, 2), apart.mark, comparison.style_of(apart), comparison.format_ratio(apart)) == (
        4.19,
        "*",
        "ratio",
        "(4.19x *)",
    )
    faster = choice({"fp32": [1.08 * ms for ms in STEADY[::-1]], "int8_qat": STEADY})
    found = ratio_of([*own, faster])
    assert comparison.format_ratio(found) == "(1.08x)" and comparison.style_of(found) == "good"
    assert 1.07 < found.low < found.high < 1.09
    assert ratio_of([*own, faster], batch=16).mark == "*", "that batch was not timed in turns"
    slower = choice({"fp32": STEADY, "int8_qat": [1.08 * ms for ms in STEADY]})
    assert comparison.style_of(ratio_of([*own, slower])) == "bad"
    level = ratio_of([*own, choice({"fp32": STEADY, "int8_qat": STEADY[::-1]})])
    assert comparison.format_ratio(level) == "(1.00x =)" and comparison.style_of(level) == "ratio"
    loaded = ratio_of([*own, choice({"fp32": [1.0, 2.0, 1.5, 3.0, 1.2, 2.2], "int8_qat": STEADY})])
    assert loaded.mark == "~" and comparison.style_of(loaded) == "ratio"
    other = {
        **faster,
        "paired_benchmark": [
            {
                **faster["paired_benchmark"][0],
                "engines": [
                    {**engine, "engine_sha256": "0" * 64} for engine in faster["paired_benchmark"][0]["engines"]
                ],
            }
        ],
    }
    assert ratio_of([*own, other]).mark == "*", "an older engine's turns are not this one's"


def test_summary_says_how_a_ratio_was_taken():
    own = [result("fp32", 100.0), result("int8_qat", 419.0)]
    table = comparison.table_of([*own, choice({"fp32": [1.08 * ms for ms in STEADY[::-1]], "int8_qat": STEADY})])
    found = {(row["precision"], row["batch"]): row for row in table}
    assert found["int8_qat", 1]["ratio_taken"] == "in turns" and found["int8_qat", 16]["ratio_taken"] == "apart"
    assert found["int8_qat", 1]["ratio_low"] > 1.07 and found["int8_qat", 16]["ratio_low"] is None
    assert found["int8_qat", 1]["timed"] == "kept" and found["int8_qat", 1]["power_mode"] == "15W"


def test_an_unstable_turn_names_the_choice_to_time_again():
    turns = choice({"fp32": [1.0, 2.0, 1.5, 3.0, 1.2, 2.2], "int8_qat": STEADY}, stable=False)
    turns["paired_benchmark"][0]["stable"] = False
    notes = comparison.notes([result("fp32", 100.0), result("int8_qat", 419.0), turns])
    assert notes[0].startswith("~ ") and notes[0].endswith("make retime RESULT=results/LeViT-128S.auto.cpu.json")


def test_what_was_measured_on_other_images_stands_in_a_table_of_its_own(tmp_path, capsys):
    """Results of a dataset with 2 classes and of one with 12: case 6, and a part of a dataset besides."""
    pairs = [on("tset", 50, 2, precision="fp32"), on("num", 360, 12, precision="int8_qat")]
    part = {**on("num", 90, 12, precision="bf16")}
    part["dataset"]["subset"] = {"classes": None, "images": 90}
    assert [comparison.ratio([*pairs, part], one, 1) is None for one in pairs] == [False, True]
    (tmp_path / "results").mkdir()
    for one in [*pairs, part]:
        (tmp_path / f"LeViT-128S.{one['precision']}.cpu.json").write_text(json.dumps(one))
    summarize.show(tmp_path)
    told = capsys.readouterr().out
    headings = re.findall(r"^(\S.*) on cpu \(.*\n +(.*)$", told, re.MULTILINE)
    assert headings == [("num", "int8_qat"), ("num (images 90)", "bf16"), ("tset", "fp32")]


def test_printing_where_there_is_no_result_says_nothing(tmp_path, capsys):
    summarize.show(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_result_is_named(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match="x.json is not a result"):
        comparison.load([tmp_path / "x.json"])


FIVE = {"LeViT-128S": 76.6, "LeViT-128": 78.6, "LeViT-192": 80.0, "LeViT-256": 81.6, "LeViT-384": 82.6}


def on(name, images, classes, precision="fp32", **options):
    return {
        **result(precision, 1.0, **options),
        "dataset": {"name": name, "split": "val", "num_images": images, "num_classes": classes},
    }


def test_published_accuracies_stand_beside_what_was_measured_on_the_same_images_alone():
    others = [on("digits", 360, 10, top1=98.0), on("part", 5000, 1000, top1=77.7), on("other", 50_000, 999, top1=77.8)]
    nothing = comparison.published_grid(others, FIVE)
    assert nothing == {"columns": ["ours"], "models": [(model, top1, [None]) for model, top1 in FIVE.items()]}
    measured = [
        on("imagenet", 50_000, 1000, top1=76.5),
        on("imagenet", 50_000, 1000, top1=82.5, model="LeViT-384", target="ort"),
    ]
    grid = comparison.published_grid(others + measured, FIVE)
    assert grid["columns"] == ["fp32 on cpu", "fp32 on ort"]
    assert grid["models"][0] == ("LeViT-128S", 76.6, [76.5, None])
    assert grid["models"][4] == ("LeViT-384", 82.6, [None, 82.5]) and grid["models"][1][2] == [None, None]
