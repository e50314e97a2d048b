"""Changes of scripts, shared modules and rules."""

import os

import pytest

from staleness import (
    ALL,
    BUILT,
    CHECKPOINT,
    PTQ_PLAN,
    QAT,
    QAT_PLAN,
    RETRAINING,
    Changes,
    builds,
    engine,
    planned,
    result,
    timed,
)
from workflow import jobs_of, reasons_of

CHANGES = Changes()
change = CHANGES.change


@change(CHECKPOINT)
def comment_in_a_script(workflow):
    workflow.edit("workflow_scripts/train.py", "def run", "# a comment\ndef run")


@change(QAT, slow=True)
def docstring_of_a_script(workflow):
    workflow.edit("workflow_scripts/train_qat.py", '"""', '"""Another docstring. ')


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def code_of_a_script(workflow):
    workflow.edit("workflow_scripts/train_qat.py", "def run", "EXTRA = 1\n\n\ndef run")


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")], slow=True)
def code_of_a_script_dated_back(workflow):
    code_of_a_script(workflow)
    os.utime(workflow.path("workflow_scripts/train_qat.py"), (1e9, 1e9))


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
)
def code_of_a_shared_module_dated_back(workflow):
    code_of_a_shared_module(workflow)
    os.utime(workflow.path("workflow_scripts/graph/passes.py"), (1e9, 1e9))


@change(ALL)
def comment_in_a_module_of_all(workflow):
    workflow.edit("workflow_scripts/core/files.py", "import json", "import json  # of the standard library")


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
    slow=True,
)
def code_of_a_shared_module(workflow):
    workflow.edit("workflow_scripts/graph/passes.py", "TOLERANCE = ", "EXTRA = 1\nTOLERANCE = ")


@change(timed(*BUILT))
def shell_text_of_a_rule(workflow):
    workflow.edit("rules/benchmark.smk", "{params.files}", " {params.files}")


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")


def test_two_dry_runs_print_the_same_plan(base, tmp_path):
    workflow = base.copy(tmp_path / "changed")
    code_of_a_shared_module(workflow)
    plans = [workflow.run("-n", "--quiet", "host", "--", *result(*BUILT))[1] for _ in range(2)]
    assert jobs_of(plans[0]) == jobs_of(plans[1]) != []
    assert reasons_of(plans[0]) == reasons_of(plans[1]) != []
