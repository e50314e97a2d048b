"""The small model through every artifact: trained, quantized, built, measured on cpu and ort, built for rtx."""

import csv
import json
import sys

import jsonschema
import yaml

from workflow import REPOSITORY, Workflow

SCHEMA = yaml.safe_load((REPOSITORY / "rules/schemas/result.schema.yaml").read_text())
RESULTS = [f"{p}.cpu" for p in ("fp32", "bf16", "int8_ptq", "int8_qat")]
RESULTS += [f"{p}.ort" for p in ("fp32", "int8_ptq", "int8_qat")]
RTX = [f"results/digits/engines/LeViT-tiny.{precision}.rtx.engine" for precision in ("fp32", "fp16", "int8_qat")]


def quick(config):
    """Make everything of the small model, with little training and short timings."""
    config["results"] = {"models": ["LeViT-tiny"]}
    config["datasets"]["digits"]["training"]["epochs"] = 2
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
    status, output = workflow.run("--quiet", "rules", "--", "all", *RTX, LEVIT_PYTHON=sys.executable)
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
    assert {f"{row['precision']}.{row['target']}" for row in table} == {*RESULTS, "auto.cpu", "auto.ort"}
    assert "LeViT-tiny" in workflow.path("results/report.html").read_text()
    heading = output.split("\nLeViT-tiny  top-1 %", 1)[0].splitlines()[-1]  # of the table that ends a run
    assert heading.split() == ["fp32", "bf16", "int8_ptq", "int8_qat", "auto"]
    auto = json.loads(workflow.path("results/LeViT-tiny.auto.cpu.json").read_text())
    assert auto["chosen"] in [one["precision"] for one in auto["candidates"]] and len(auto["candidates"]) == 4
    assert not list(workflow.path("results").rglob("*.partial"))
    assert "Nothing to be done" in workflow.run("--", "all", *RTX, LEVIT_PYTHON=sys.executable)[1]
