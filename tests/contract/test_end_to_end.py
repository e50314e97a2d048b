"""The small model through every artifact: trained, quantized, built, measured on cpu and ort, built for rtx."""

import csv
import json
import subprocess
import sys

import jsonschema
import torch
import yaml

import forks
from model import zoo
from workflow import REPOSITORY, Workflow

SCHEMA = yaml.safe_load((REPOSITORY / "rules/schemas/result.schema.yaml").read_text())
RESULTS = [f"{p}.cpu" for p in ("fp32", "bf16", "int8_ptq", "int8_qat")]
RESULTS += [f"{p}.ort" for p in ("fp32", "int8_ptq", "int8_qat")]
RESULTS += [f"{p}.torch" for p in ("fp32", "bf16", "fp16")]
RTX = [f"results/digits/engines/LeViT-tiny.{precision}.rtx.engine" for precision in ("fp32", "fp16", "int8_qat")]


def quick(config):
    """Make everything of the small model, with little training and short timings."""
    config["results"] = {"models": ["LeViT-tiny"]}
    config["datasets"]["digits"]["training"].update(epochs=2, small_epochs=1, batch=64)
    for precision in config["precisions"].values():
        precision["budget"] = 100.0  # hardly trained: what is lost is no matter here
        precision.get("calibration", {}).update(images=64)
    config["precisions"]["int8_ptq"]["calibration"]["candidates"] = [{"method": "max"}, {"method": "mse"}]
    config["precisions"]["int8_qat"]["qat"]["steps"] = 10
    for target in config["targets"].values():
        target.update(warmup_ms=50, duration_ms=200, iterations=10)


def test_every_artifact(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.config(quick)
    status, output = workflow.run("--quiet", "rules", "--", "all", *RTX, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    for name in RESULTS:
        result = json.loads(workflow.path(f"results/LeViT-tiny.{name}.json").read_text())
        jsonschema.validate(result, SCHEMA)
        assert result["accuracy"]["num_images"] == 360
        assert all(entry["throughput_qps"] > 0 for entry in result["benchmark"])
        assert workflow.path(result["engine"]["path"]).stat().st_size == result["engine"]["bytes"]
    for path in RTX:
        assert workflow.path(path).stat().st_size > 0
    sweep = json.loads(workflow.path("results/digits/sweeps/LeViT-tiny.int8_ptq.json").read_text())
    calibration = json.loads(workflow.path("results/digits/calibration/LeViT-tiny.int8_ptq.json").read_text())
    assert calibration["recipe"] == sweep["chosen"] and calibration["images"] == 64
    table = csv.DictReader(workflow.path("results/summary.tsv").read_text().splitlines(), delimiter="\t")
    assert {f"{row['precision']}.{row['target']}" for row in table} == {*RESULTS, "auto.cpu", "auto.ort", "auto.torch"}
    assert "LeViT-tiny" in workflow.path("results/report.html").read_text()
    heading = output.split("\nLeViT-tiny  top-1 %", 1)[0].splitlines()[-1]  # of the table that ends a run
    assert heading.split() == ["fp32", "bf16", "int8_ptq", "int8_qat", "auto"]
    auto = json.loads(workflow.path("results/LeViT-tiny.auto.cpu.json").read_text())
    assert auto["chosen"] in [one["precision"] for one in auto["candidates"]] and len(auto["candidates"]) == 8
    assert auto["objective"] == "latency" and auto["chosen_batch"] == 1
    assert not list(workflow.path("results").rglob("*.partial"))
    assert "Nothing to be done" in workflow.run("--", "all", *RTX, LEVIT_PYTHON=forks.working_python())[1]


AUTO, PARTS = "results/LeViT-tiny.auto.cpu.json", ("fp32", "bf16")


def untrained(config):
    """Choose between two engines of weights that were never trained."""
    quick(config)
    config["datasets"]["digits"]["weights"] = "w.pth"
    config["precisions"]["auto"]["choose"] = list(PARTS)


def timings(workflow):
    """Return ({(precision, batch): a timing of its own}, {batch: the turns}, what was chosen)."""
    paths = {p: f"results/LeViT-tiny.{p}.cpu.json" for p in PARTS}
    own = {
        (p, e["batch"]): e
        for p, path in paths.items()
        for e in json.loads(workflow.path(path).read_text())["benchmark"]
    }
    auto = json.loads(workflow.path(AUTO).read_text())
    jsonschema.validate(auto, SCHEMA)
    return own, {entry["batch"]: entry for entry in auto["paired_benchmark"]}, auto["chosen"]


def test_a_comment_before_the_engine_times_nothing_again_that_was_stable(tmp_path):
    """Case 13: equal engines keep their old figures, and `auto` its choice, until they are asked for again."""
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.config(untrained)
    torch.manual_seed(0)
    model = yaml.safe_load(workflow.path("config.yaml").read_text())["models"]["LeViT-tiny"]
    torch.save(zoo.create(model, 10).state_dict(), workflow.path("w.pth"))
    status, output = workflow.run("--quiet", "rules", "--", AUTO, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    engines = [workflow.path(f"results/digits/engines/LeViT-tiny.{p}.cpu.engine") for p in PARTS]
    bytes_before, before = [path.read_bytes() for path in engines], timings(workflow)
    workflow.edit("workflow_scripts/graph/passes.py", '"""', '# the passes, one by one\n"""')
    assert {"clean_onnx cpu", "build_engine fp32.cpu", "paired_benchmark auto.cpu", "choose_precision auto.cpu"} <= set(
        workflow.plan(AUTO)
    )
    status, output = workflow.run("--quiet", "rules", "--", AUTO, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    assert [path.read_bytes() for path in engines] == bytes_before
    after = timings(workflow)
    for old, new in zip(before[:2], after[:2]):
        for name, entry in old.items():
            assert new[name]["timed"] == ("kept" if entry["stable"] else "new"), name
            assert not entry["stable"] or {**new[name], "timed": "new"} == entry, name
    if before[1][1]["stable"]:
        assert after[2] == before[2]
    again = [sys.executable, "workflow_scripts/retime.py", AUTO.replace("auto", "fp32"), "--quiet", "rules"]
    done = subprocess.run(again, cwd=workflow.folder, env=workflow.environment(LEVIT_PYTHON=forks.working_python()))
    assert done.returncode == 0
    assert {entry["timed"] for (precision, _), entry in timings(workflow)[0].items() if precision == "fp32"} == {"new"}
