"""What decides nothing makes nothing stale."""

import os
import sys
from pathlib import Path

import pytest

from staleness import MODEL, Changes, row, upgrade

CHANGES = Changes()
change = CHANGES.change


@change([])
def nothing(workflow):
    pass


@change([])
def comment_in_config(workflow):
    workflow.edit("config.yaml", "\nmodels:", "\n# the networks\nmodels:")


@change([])
def key_order_in_config(workflow):
    workflow.config(lambda config: None, sort_keys=True)


@change([])
def default_written_out(workflow):
    workflow.config(row("targets", "cpu", typed=False, dla=0, trtexec=False))


@change([])
def number_of_processes_that_train(workflow):
    workflow.config(lambda config: config["datasets"]["digits"]["training"].update(processes=2))
    workflow.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(processes=4))


@change([])
def url_of_a_model_that_is_trained(workflow):
    workflow.config(row("models", MODEL, url="https://example.org/x.pth", sha256="0123456789abcdef"))


@change([])
def published_accuracy(workflow):
    workflow.config(row("models", MODEL, top1=50.0))


@change([])
def unused_rows(workflow):
    workflow.config(lambda config: config["models"].pop("LeViT-384") and None)


@change([])
def interpreter_of_a_target(workflow):
    workflow.config(row("targets", "cpu", python=sys.executable))


@change([])
def another_target_on_a_board(workflow):
    workflow.config(lambda config: config["targets"]["xavier"].update(ssh="user@host", workdir="work"))


@change([])
def touched_outputs(workflow):
    for path in workflow.path("results").rglob("*.*"):
        if "logs" not in path.parts and path.is_file():
            os.utime(path)


@change([])
def touched_script(workflow):
    os.utime(workflow.path("workflow_scripts/train.py"))


@change([])
def deleted_intermediates(workflow):
    workflow.path(f"results/digits/onnx/{MODEL}.onnx").unlink()
    workflow.path(f"results/digits/qat/{MODEL}.int8_qat.pth").unlink()


@change([])
def deleted_store(workflow):
    workflow.config(lambda config: config.update(store="elsewhere"))


@change([])
def code_of_another_runtime(workflow):
    workflow.edit(
        "workflow_scripts/runtimes/tensorrt_rtx.py",
        "import",
        "import functools  # new\nimport",
    )


@change([])
def drawing_of_another_dataset(workflow):
    workflow.config(lambda config: config["datasets"]["glyphs"]["drawing"].update(val=7))


@change([])
def images_of_another_dataset(workflow):
    workflow.path("pictures/val/a").mkdir(parents=True)
    workflow.config(lambda config: config["datasets"]["imagenet"].update(path="pictures", labels="x"))


@change([])
def code_of_another_builtin_dataset(workflow):
    workflow.edit("workflow_scripts/data/glyphs.py", "PIXELS = ", "EXTRA = 1\nPIXELS = ")


@change([])
def power_mode_of_a_target_that_is_not_asked_for(workflow):
    workflow.config(row("targets", "xavier", power_mode="15W_6CORE"))


@change([])
def version_of_a_package_that_shapes_nothing(workflow):
    upgrade(workflow, "snakemake", "pulp", "pandas")


@change([])
def user_libraries_of_python(workflow):
    workflow.variables["PYTHONPATH"] = str(workflow.path("nothing"))


@change([])
def docstring_and_order_of_rules(workflow):
    workflow.edit("rules/benchmark.smk", '"""Time', '"""Really time')
    workflow.edit("Snakefile", 'include: "rules/data.smk"\n', "")
    workflow.edit(
        "Snakefile", 'include: "rules/results.smk"\n', 'include: "rules/results.smk"\ninclude: "rules/data.smk"\n'
    )


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")


def test_the_matrix_is_wide_enough():
    tables = Path(__file__).parent.glob("test_staleness_*.py")
    assert sum(path.read_text().count("\n@change(") for path in tables) >= 90
