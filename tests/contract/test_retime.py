"""`make retime`: what is timed again of a result, on both Snakemakes, and what it refuses."""

import json
import re
import subprocess
import sys

import pytest

from workflow import REPOSITORY, SNAKEMAKE, SNAKEMAKES, Workflow, command_python

AUTO, FP32 = (f"results/LeViT-tiny.{name}.cpu.json" for name in ("auto", "fp32"))
TURNS = "results/digits/paired_benchmark/LeViT-tiny.auto.cpu.json"
TIMING = "results/digits/benchmark/LeViT-tiny.fp32.cpu.json"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return of(SNAKEMAKE, tmp_path_factory.mktemp("retime") / "base")


def of(snakemake, folder):
    """Return a workflow that built AUTO of two candidates."""
    workflow = Workflow.fresh(folder, snakemake=snakemake)

    def settle(config):
        config["precisions"]["auto"]["choose"] = ["fp32", "bf16"]
        config["targets"]["cpu"]["python"] = str(asked)  # the same identity, whichever Snakemake asks for it

    asked = workflow.path("asked-python")
    fake = workflow.environment()["LEVIT_PYTHON"]
    asked.write_text(f'#!/bin/sh\n[ "$1" != -c ] && exec "{fake}" "$@"\nexec "{sys.executable}" "$@"\n')
    asked.chmod(0o755)
    workflow.config(settle)
    workflow.build(AUTO)
    return workflow


def retime(workflow, *arguments, python=None):
    """Time again; return (status, [(command, output, what is asked for again)] in the order of the work, the text)."""
    log = workflow.path("work.log")
    log.unlink(missing_ok=True)
    command = [str(python or command_python()), "workflow_scripts/retime.py", *arguments, "--quiet", "rules"]
    done = subprocess.run(command, cwd=workflow.folder, env=workflow.environment(), capture_output=True, text=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    work = [(line["command"], line["outputs"][0], line["again"]) for line in lines]
    return done.returncode, work, done.stdout + done.stderr


@pytest.mark.parametrize("snakemake", SNAKEMAKES)
def test_a_result_is_timed_again_and_nothing_else(built, tmp_path, snakemake):
    if not snakemake.exists():
        pytest.skip("no Snakemake 7 here")
    workflow = built.copy(tmp_path / "copy") if snakemake == SNAKEMAKE else of(snakemake, tmp_path / "base")
    status, work, said = retime(workflow, FP32, python=snakemake.with_name("python"))
    assert status == 0, said
    benchmark, result = TIMING.replace("results/", ""), FP32.replace("results/", "")
    assert work == [("benchmark", benchmark, TIMING), ("assemble_result", result, TIMING)]


def test_of_a_choice_the_turns_are_taken_again(built, tmp_path):
    workflow = built.copy(tmp_path / "copy")
    status, work, said = retime(workflow, AUTO)
    assert status == 0, said
    assert [command for command, _, again in work if again == TURNS] == ["paired_benchmark", "choose_precision"]
    assert workflow.plan(AUTO) == []


def test_several_results_and_options_of_snakemake(built, tmp_path):
    workflow = built.copy(tmp_path / "copy")
    status, work, said = retime(workflow, FP32, AUTO, "--dry-run")
    assert status == 0 and work == [] and "paired_benchmark" in said, said
    assert workflow.path(TURNS).exists() and workflow.path(TIMING).exists()


@pytest.mark.parametrize(
    "result, problem",
    [
        ("results/LeViT-tiny.fp23.cpu.json", "unknown precision fp23: did you mean fp32"),
        ("results/summary.tsv", "results/summary.tsv is not a result"),
        ("results/LeViT-tiny.fp16.cpu.json", "fp16 on cpu: openvino there computes in"),
    ],
)
def test_what_is_no_result_is_refused_in_one_line(built, result, problem):
    status, work, said = retime(built, result)
    assert status == 1 and work == [] and said.startswith(f"error: {problem}") and said.count("\n") == 1, said


def test_a_result_of_another_dataset_is_refused(built, tmp_path):
    workflow = built.copy(tmp_path / "copy")
    workflow.path(FP32).write_text(json.dumps({"dataset": {"name": "glyphs"}}))
    status, work, said = retime(workflow, FP32)
    assert status == 1 and work == [] and "is of the dataset glyphs, config.yaml says digits" in said


def test_make_retime_asks_for_a_result():
    done = subprocess.run(["make", "-n", "retime", f"RESULT={AUTO}"], cwd=REPOSITORY, capture_output=True, text=True)
    assert f"workflow_scripts/retime.py {AUTO}" in done.stdout
    assert re.search(r"^retime:.*RESULT=", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
