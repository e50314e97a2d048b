"""The small model through every artifact: trained, quantized, built, measured here, built for rtx."""

import csv
import json
import subprocess
import sys

import jsonschema
import pytest
import torch
import yaml

import forks
from model import zoo
from workflow import REPOSITORY, Workflow

SCHEMA = yaml.safe_load((REPOSITORY / "rules/schemas/result.schema.yaml").read_text())
PRECISIONS = {  # what each target that is measured here computes in
    "cpu": ("fp32", "bf16", "int8_ptq", "int8_qat"),
    "ort": ("fp32", "int8_ptq", "int8_qat"),
    "torch": ("fp32", "bf16", "fp16"),
}
RTX = {"fp32": "fp32", "fp16": "fp16", "int8_qat": "int8"}  # precision: what layers of its engine compute in


def quick(config):
    """Make everything of the small model, with little training and short timings."""
    config["results"] = {"models": ["LeViT-tiny"]}
    config["datasets"]["digits"]["training"].update(epochs=1, small_epochs=1, batch=64)
    for precision in config["precisions"].values():
        precision["budget"] = 100.0  # hardly trained: what is lost is no matter here
        precision.get("calibration", {}).update(images=64)
    config["precisions"]["int8_ptq"]["calibration"]["candidates"] = [{"method": "max"}, {"method": "mse"}]
    config["precisions"]["int8_qat"]["qat"]["steps"] = 4
    for target in config["targets"].values():
        target.update(warmup_ms=20, duration_ms=100, iterations=10)


@pytest.mark.parametrize(
    ("targets", "precisions", "rtx"),
    [
        (["cpu"], ["fp32", "int8_ptq", "int8_qat", "auto"], ["int8_qat"]),
        pytest.param("all", "all", list(RTX), marks=pytest.mark.slow),
    ],
    ids=["cpu", "all"],
)
@pytest.mark.long
def test_every_artifact(tmp_path, targets, precisions, rtx):
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.config(quick)

    def ask(config):
        config["results"].update(targets=targets, precisions=precisions)
        config["precisions"]["auto"]["choose"] = "all" if precisions == "all" else precisions[:-1]

    workflow.config(ask)
    engines = [f"results/digits/engines/LeViT-tiny.{precision}.rtx.engine" for precision in rtx]
    status, output = workflow.run("--quiet", "rules", "--", "all", *engines, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    asked = PRECISIONS if targets == "all" else targets
    results = [f"{p}.{t}" for t in asked for p in PRECISIONS[t] if precisions == "all" or p in precisions]
    for name in results:
        result = json.loads(workflow.path(f"results/LeViT-tiny.{name}.json").read_text())
        jsonschema.validate(result, SCHEMA)
        assert result["accuracy"]["num_images"] == 360
        assert all(entry["throughput_qps"] > 0 for entry in result["benchmark"])
        assert workflow.path(result["engine"]["path"]).stat().st_size == result["engine"]["bytes"]
    for precision, path in zip(rtx, engines):
        layers = json.loads(workflow.path(path.replace(".engine", ".json")).read_text())["precision_of_layers"]
        assert workflow.path(path).stat().st_size > 0 and layers[RTX[precision]] > 5
    sweep = json.loads(workflow.path("results/digits/sweeps/LeViT-tiny.int8_ptq.json").read_text())
    calibration = json.loads(workflow.path("results/digits/calibration/LeViT-tiny.int8_ptq.json").read_text())
    assert calibration["recipe"] == sweep["chosen"] and calibration["images"] == 64
    table = csv.DictReader(workflow.path("results/summary.tsv").read_text().splitlines(), delimiter="\t")
    assert {f"{row['precision']}.{row['target']}" for row in table} == {*results, *(f"auto.{t}" for t in asked)}
    assert "LeViT-tiny" in workflow.path("results/report.html").read_text()
    heading = output.split("\nLeViT-tiny  top-1 %", 1)[0].splitlines()[-1]  # of the table that ends a run
    assert heading.split() == [p for p in (*PRECISIONS["cpu"], "auto") if precisions == "all" or p in precisions]
    auto = json.loads(workflow.path("results/LeViT-tiny.auto.cpu.json").read_text())
    assert auto["chosen"] in [one["precision"] for one in auto["candidates"]] and len(auto["candidates"]) == 2 * len(
        heading.split()[:-1]
    )
    assert auto["objective"] == "latency" and auto["chosen_batch"] == 1
    assert not list(workflow.path("results").rglob("*.partial"))
    assert "Nothing to be done" in workflow.run("--", "all", *engines, LEVIT_PYTHON=forks.working_python())[1]


AUTO, PARTS = "results/LeViT-tiny.auto.cpu.json", ("fp32", "bf16")


def untrained(config):
    """Choose between two engines of weights that were never trained."""
    quick(config)
    config["datasets"]["digits"]["weights"] = "w.pth"
    config["precisions"]["auto"]["choose"] = list(PARTS)
    config["targets"]["cpu"]["batches"] = [1]


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


@pytest.mark.slow  # test_benchmark_cache.py shows it of the commands
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
