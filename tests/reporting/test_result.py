"""The result JSON: its schema, what is refused, where the commit comes from."""

import argparse
import copy
import json
import subprocess

import jsonschema
import pytest
import yaml

import assemble_result
from conftest import ROOT
from core import provenance
from core.command import tool_versions
from core.files import UserError, sha256_file
from reporting import result_file

SUMMARY = dict.fromkeys(("mean", "median", "p90", "p95", "p99", "min", "max"), 1.5)
SHA256 = "0" * 64
VALID = {
    "schema_version": 2,
    "model": "LeViT-128S",
    "precision": "int8_qat",
    "target": "cpu",
    "chosen": None,
    "chosen_batch": None,
    "objective": None,
    "candidates": None,
    "dataset": {
        "name": "digits",
        "split": "val",
        "num_images": 360,
        "num_classes": 10,
        "subset": None,
        "class_order": {"order": "sorted", "given": True, "natural_differs": False},
        "class_names": None,
        "left_out": {"not an image": 1},
    },
    "preprocessing": {
        **{"size": 224, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"},
        **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        **{"sources": {"size": "config.yaml", "mean": "timm"}, "contradicts": {}},
    },
    "accuracy": {
        "top1": 98.0,
        "top5": 100.0,
        "num_images": 360,
        "agreement_with_fp32": 99.0,
        "max_abs_logit_error": 0.1,
        "logit_error_over_spread": 0.05,
        "smallest_margin": 0.01,
        "smallest_changed_margin": None,
        "largest_changed_margin": None,
        "budget": 0.3,
        "within_budget": True,
        "machine": "a" * 32,
    },
    "benchmark": [
        {
            "batch": 1,
            "throughput_qps": 600.0,
            "images_per_second": 600.0,
            "latency_ms": SUMMARY,
            "compute_ms": SUMMARY,
            "h2d_ms": None,
            "d2h_ms": None,
            "enqueue_ms": None,
            "iterations": 100,
            "warmup_ms": 500,
            "threads": 2,
            "cuda_graph": None,
            "stable": True,
            "coefficient_of_variation": 0.01,
            "energy_mj_per_image": None,
            "power_mode": None,
            "power_mode_asked": None,
            "clocks_mhz": {"before": 2596.1, "after": None},
            "board": None,
            "beside": {"load_before": 0.0, "load_after": 1.5, "steal_percent": None, "others_percent": 0.4},
            "timed": "new",
            "timing_key": None,
            "machine": "a" * 32,
        }
    ],
    "paired_benchmark": None,
    "over_pytorch": None,
    "trtexec": None,
    "dla": None,
    "engine": {
        "path": "results/digits/engines/a.engine",
        "bytes": 10,
        "sha256": SHA256,
        "build_seconds": 1.0,
        "engine_builds": 1,
        "layers": 135,
        "precision_of_layers": {"int8": 1, "fp16": 0, "bf16": 0, "fp32": 134},
        "int8_share_of_macs": 0.92,
        "reformats": 1,
        "warnings": ["the recipe asks for int8, and no layer computes in it"],
        "plugin": None,
        "machine": "b" * 32,
    },
    "plan": None,
    "checkpoint_bytes": 10,
    "target_identity": {"runtime": "openvino", "version": "1", "isa": []},
    "provenance": {
        "checkpoint_sha256": SHA256,
        "graph_sha256": SHA256,
        "calibration_sha256": None,
        "recipe": {},
        "weights_part": None,
        "versions": {"python": "3.11"},
        "trained": {"results/digits/checkpoints/a.pth": {"versions": {"torch": "2"}, "context": {"threads": 2}}},
        "git_commit": "a" * 40 + "-dirty",
    },
    "notes": ["results/digits/checkpoints/a.pth: built with torch 1, now torch 2"],
}


TRTEXEC = {
    "batch": 1,
    "throughput_qps": 600.0,
    "latency_ms": SUMMARY,
    "compute_ms": SUMMARY,
    "machine": "a" * 32,
    "median_compute_ratio": 1.0,
}


def changed(path, value):
    result = copy.deepcopy(VALID)
    place = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return result


ENGINE = {"precision": "fp32", "engine_sha256": SHA256, "median_ms": [1.0] * 12, "images_per_second": [1e3] * 12}
ENGINE["latency_ms"] = {"median": 1.0, "p99": 1.2}
TURNS = {"batch": 1, "stable": True, "power_mode": None, "timed": "new", "timing_key": SHA256, "engines": [ENGINE] * 2}
TURNS["machine"] = "a" * 32
TURNS["beside"] = VALID["benchmark"][0]["beside"]
SCORE = {"num_images": 200, "top1": 98.5, "agreement_with_fp32": 99.5, "met": True, "slack": 0.0, "fp32_top1": 99.0}


def by_plan(**more):
    """Return the description of an engine that was built by a plan."""
    counts = {"nodes_total": 3, "nodes_high_precision": 0, "path": "p.json", "met": True}
    return {"plan": {**counts, "measured": {**SCORE, "top1": 98.0}, **more}}


def test_a_result_has_what_was_predicted_of_its_engine_beside_what_it_does():
    found = assemble_result.plan_of(by_plan(engine={**SCORE, "top1": 97.0, "met": False}), {**SCORE, "top1": 98.5})
    assert {who: score["top1"] for who, score in found["select"].items()} == {
        "simulated": 98.0,
        "typed": 98.5,
        "engine": 97.0,
    }
    assert not found["met"], "the engine's own verdict counts"
    unknown = assemble_result.plan_of(by_plan(engine=None), None)
    assert unknown["met"] and unknown["select"]["engine"] is None and unknown["select"]["typed"] is None
    assert assemble_result.plan_of({}, None) is None


def test_valid_result():
    result_file.check(VALID)
    result_file.check(changed(("engine", "precision_of_layers"), None))
    result_file.check(changed(("plan",), assemble_result.plan_of(by_plan(engine=SCORE), SCORE)))
    result_file.check(changed(("plan",), assemble_result.plan_of(by_plan(engine=None), None)))
    result_file.check(changed(("provenance", "git_commit"), None))
    result_file.check(changed(("trtexec",), [TRTEXEC]))
    result_file.check(changed(("engine", "warnings"), []))
    result_file.check(changed(("paired_benchmark",), [TURNS]))
    result_file.check(changed(("benchmark", 0, "timed"), "kept"))


@pytest.mark.parametrize(
    "path, value",
    [
        (("paired_benchmark",), []),
        (("paired_benchmark",), [{**TURNS, "engines": []}]),
        (("benchmark", 0, "timed"), "old"),
        (("benchmark", 0, "timing_key"), "b"),
        (("surprise",), 1),
        (("accuracy", "top1"), None),
        (("accuracy", "top1"), 100.1),
        (("accuracy", "within_budget"), 1),
        (("benchmark",), []),
        (("benchmark", 0, "h2d_ms"), 0),
        (("benchmark", 0, "energy_mj_per_image"), 0),
        (("benchmark", 0, "latency_ms"), None),
        (("benchmark", 0, "latency_ms"), {**SUMMARY, "p50": 1.0}),
        (("benchmark", 0, "stable"), None),
        (("engine", "sha256"), "abc"),
        (("engine", "layers"), 0),
        (("engine", "precision_of_layers"), {"int8": 1}),
        (("engine", "int8_share_of_macs"), 92),
        (("engine", "warnings"), None),
        (("trtexec",), []),
        (("trtexec",), [{**TRTEXEC, "compute_ms": None}]),
        (("engine", "machine"), "user@host"),
        (("trtexec",), [{**TRTEXEC, "median_compute_ratio": 0}]),
        (("plan",), {}),
        (("provenance", "git_commit"), "main"),
        (("provenance", "versions", "torch"), None),
        (("target_identity",), {}),
    ],
)
def test_invalid_result(path, value):
    with pytest.raises(UserError, match="the result violates result.schema.yaml") as error:
        result_file.check(changed(path, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", sorted(VALID))
def test_every_part_is_required(key):
    with pytest.raises(UserError, match=f"'{key}' is a required property"):
        result_file.check({name: value for name, value in VALID.items() if name != key})


def test_schema_is_closed():
    """Every object of ours lists its keys; what a target is and its recipe are the runtimes' and the tables' own."""
    schema = yaml.safe_load((ROOT / "rules" / "schemas" / "result.schema.yaml").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    open_objects = []

    def walk(node, where):
        if isinstance(node, dict):
            if node.get("type") == "object" and node.get("additionalProperties") is not False:
                open_objects.append(where[-1])
            if isinstance(node.get("properties"), dict) and node.get("additionalProperties") is False:
                assert set(node["required"]) == set(node["properties"]), where
            for key, value in node.items():
                walk(value, where + [key])
        elif isinstance(node, list):
            for value in node:
                walk(value, where)

    walk(schema, ["root"])
    known = ["clocks_mhz", "context", "contradicts", "rails_mw", "recipe", "sources", "target_identity", "trained"]
    assert sorted(open_objects) == [*known, "versions", "versions"]


def test_budget():
    """Losing exactly the budget is within it: 1 of 360 images is 0.2777 points."""
    names = ("top5", "num_images", "agreement_with_fp32", *assemble_result.ERRORS, *assemble_result.MARGINS, "machine")
    accuracy = {**dict.fromkeys(names, 1), "top1": 100 * 350 / 360, "fp32_top1": 100 * 351 / 360}
    assert assemble_result.accuracy_of(accuracy, 100 / 360)["within_budget"]
    assert assemble_result.accuracy_of(accuracy, 0.3)["within_budget"]
    assert not assemble_result.accuracy_of(accuracy, 0.27)["within_budget"]
    assert assemble_result.accuracy_of({**accuracy, "top1": 99.0}, 0.0)["within_budget"], "a gain is no loss"


def test_another_engine_s_figures_are_refused(tmp_path):
    (tmp_path / "e").write_bytes(b"engine")
    good, names = {"engine_sha256": sha256_file(tmp_path / "e")}, ("a.json", "b.json", "t.json")
    assemble_result.check_engine(tmp_path / "e", dict.fromkeys(names, good))
    assemble_result.check_engine(tmp_path / "e", {"a.json": good, "b.json": good, None: None})
    for name in names:
        for bad in ({"engine_sha256": "0"}, {}):
            with pytest.raises(UserError, match=f"{name} is of another engine"):
                assemble_result.check_engine(tmp_path / "e", {**dict.fromkeys(names, good), name: bad})


def test_trtexec_beside_our_timing():
    """The ratio is our median compute over trtexec's, of the same batch; nothing timed is null."""
    medians = {1: 1.5, 16: 6.6}
    ours = [{**TRTEXEC, "batch": n, "compute_ms": {**SUMMARY, "median": ms}} for n, ms in medians.items()]
    theirs = [{**TRTEXEC, "batch": batch, "compute_ms": {**SUMMARY, "median": 6.0}} for batch in (16, 1)]
    found = assemble_result.trtexec_of({"installed": True, "trtexec": theirs}, ours)
    assert [(entry["batch"], entry["median_compute_ratio"]) for entry in found] == [(16, pytest.approx(1.1)), (1, 0.25)]
    assert all(set(entry) == set(TRTEXEC) for entry in found)
    found = assemble_result.trtexec_of({"trtexec": [{**TRTEXEC, "machine": "b" * 32}]}, ours)
    assert found[0]["median_compute_ratio"] is None, "of another board"
    assert assemble_result.trtexec_of({"installed": False, "trtexec": []}, ours) is None
    assert assemble_result.trtexec_of(None, ours) is None


@pytest.mark.parametrize("ratio, said", [(1.0, False), (1.029, False), (0.971, False), (1.031, True), (0.969, True)])
def test_warning_where_trtexec_differs(caplog, ratio, said):
    with caplog.at_level("INFO", "levit"):
        assemble_result.log_summary(changed(("trtexec",), [{**TRTEXEC, "median_compute_ratio": ratio}]))
    assert (f"our median compute is {ratio:.3f} times trtexec's" in caplog.text) == said
    assert "of the engine's build: the recipe asks for int8, and no layer computes in it" in caplog.text


@pytest.mark.parametrize("asked, said", [(None, False), ("MODE_15W", False), ("MAXN", True)])
def test_warning_where_the_power_mode_is_another(caplog, asked, said):
    with caplog.at_level("INFO", "levit"):
        entry = {**VALID["benchmark"][0], "power_mode": "15W", "power_mode_asked": asked}
        assemble_result.log_summary(changed(("benchmark",), [entry]))
    assert ("batch 1 was timed in the power mode 15W, and the row asks for MAXN" in caplog.text) == said


def test_what_a_board_tells_is_a_result():
    told = {"rails_mw": {"VDD_IN": 5080.0}, "source": "hwmon", "clocks_mhz": {"gpu": 1109.0}, "throttling": []}
    entry = {**VALID["benchmark"][0], "board": {**told, "hottest_c": 49.0}}
    result_file.check(changed(("benchmark",), [entry]))


def test_git_commit(tmp_path, monkeypatch):
    """None outside a repository and in one that does not have this file; `-dirty` with a changed tracked file."""
    scripts = tmp_path / "project" / "workflow_scripts"
    scripts.mkdir(parents=True)
    (scripts / "assemble_result.py").write_text("1\n")
    monkeypatch.setattr("core.sources.ROOT", scripts)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert assemble_result.git_commit() is None

    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(scripts), *names, *arguments], check=True, capture_output=True, text=True
        )

    git("init", "-q", "..")
    (scripts / "other.py").write_text("1\n")
    git("add", "other.py")
    git("commit", "-qm", "one")
    assert assemble_result.git_commit() is None, "somebody else's repository"
    git("add", "assemble_result.py")
    git("commit", "-qm", "two")
    commit = assemble_result.git_commit()
    assert commit == git("rev-parse", "HEAD").stdout.strip()
    (scripts / "untracked").write_text("1\n")
    assert assemble_result.git_commit() == commit, "untracked files are results and the like"
    (scripts / "other.py").write_text("2\n")
    assert assemble_result.git_commit() == commit + "-dirty"


def test_count_of_images_must_agree():
    index = {"splits": {"val": [0, 1]}, "classes": ["a"]}
    with pytest.raises(UserError, match="the accuracy is of 3 images, split val has 2"):
        assemble_result.dataset_of("digits", {"split": "val", "num_images": 3}, index)


def test_valid_is_json():
    assert json.loads(json.dumps(VALID)) == VALID


def artifact(path, command, versions, trained=False, lineage=None):
    """Write an artifact with its record."""
    path.write_bytes(b"x")
    record = {"sha256": sha256_file(path), "command": command, "versions": versions, "context": {}, "trained": trained}
    provenance.write(str(path), {**record, "lineage": lineage or {}})
    return str(path)


def test_versions_are_those_of_the_artifacts_and_what_took_training_says_its_own(tmp_path):
    """Another torch is installed than what trained the checkpoint: the graph was made again, that was not."""
    now = tool_versions(["torch", "numpy"])
    old = {"python": "3.9", "torch": "1.0", "numpy": now["numpy"], "timm": None}
    paths = {name: tmp_path / name for name in ("checkpoint", "graph", "engine")}
    checkpoint = artifact(paths["checkpoint"], "train", old, trained=True)
    graph = artifact(
        paths["graph"],
        "export_onnx",
        {"torch": now["torch"], "onnx": "7"},
        lineage=provenance.lineage({checkpoint: provenance.read(checkpoint)}),
    )
    engine = artifact(paths["engine"], "build_engine", {"python": "3.8"})
    args = argparse.Namespace(checkpoint=checkpoint, graph=graph, engine=engine, calibration=None, recipe={})
    described = {"fingerprint": {"runtime": "openvino", "version": "1"}, "plugin": None}
    found = assemble_result.provenance_of(args, described)
    wanted = {"python": "3.8", "torch": now["torch"], "numpy": now["numpy"], "onnx": "7", "openvino": "1"}
    assert found["versions"] == wanted
    assert found["trained"] == {checkpoint: {"versions": {k: v for k, v in old.items() if v}, "context": {}}}
    assert assemble_result.notes_of(found["trained"]) == [
        f"{checkpoint}: built with torch 1.0, now torch {now['torch']}"
    ]
    assert assemble_result.notes_of({checkpoint: {"versions": now}}) == []
    assert assemble_result.notes_of({checkpoint: {"versions": {"no-such-package": "1"}}}) == [], "a device has none"


def test_an_edited_config_alone_is_not_dirty(tmp_path, monkeypatch):
    (tmp_path / "workflow_scripts").mkdir()
    for name in ("config.yaml", "Snakefile", "workflow_scripts/assemble_result.py"):
        (tmp_path / name).write_text("x")
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)
    monkeypatch.setattr("core.sources.ROOT", tmp_path / "workflow_scripts")
    clean = assemble_result.git_commit()
    (tmp_path / "config.yaml").write_text("y")
    assert assemble_result.git_commit() == clean and len(clean) == 40
    (tmp_path / "Snakefile").write_text("y")
    assert assemble_result.git_commit() == f"{clean}-dirty"
