"""Deleted artifacts, what a report follows, and the exit status of a result that misses its budget."""

import pytest

from staleness import ALL, AUTO, BUILT, CHOICE, MODEL, Changes, engine, planned, result, row

CHANGES = Changes()
change = CHANGES.change


@change(["assemble_result fp32.cpu"])
def deleted_result(workflow):
    workflow.path(result("fp32.cpu")[0]).unlink()


@change(engine("fp32.cpu"))
def deleted_engine(workflow):
    for suffix in ("engine", "json"):
        workflow.path(f"results/digits/engines/{MODEL}.fp32.cpu.{suffix}").unlink()
    workflow.path(result("fp32.cpu")[0]).unlink()


@change(ALL)
def deleted_results(workflow):
    for path in workflow.path("results").rglob("*.*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")


def test_a_report_follows_its_plans_and_the_bisections_that_are_there(base, tmp_path):
    workflow, report = base.copy(tmp_path / "changed"), "results/report.html"
    listed = {"models": [MODEL], "precisions": ["fp32", "int8_ptq"], "targets": ["cpu"]}
    workflow.config(lambda config: config.update(results=listed))
    histories = [f"record_history {name}.cpu" for name in ("fp32", "int8_ptq")]
    assert workflow.plan(report) == sorted([*histories, "report"])
    workflow.build(report)
    assert workflow.plan(report) == []
    bisect = workflow.path(f"results/digits/bisect/{MODEL}.int8_ptq.cpu.json")
    bisect.parent.mkdir()
    bisect.write_text("{}")
    assert workflow.plan(report) == ["report"], "what somebody asked for is shown, and nothing is bisected for a report"
    workflow.build(report)
    assert workflow.plan(report) == []
    workflow.config(row("precisions", "int8_ptq", criterion={"agreement": 90.0}))
    assert workflow.plan(report) == sorted(["report", histories[1], *planned("int8_ptq")])


def test_a_report_shows_results_that_came_from_a_target_out_of_reach(base, tmp_path):
    """They are no inputs: a page makes nothing for a device that is elsewhere."""
    workflow, report = base.copy(tmp_path / "changed"), "results/report.html"
    listed = {"models": [MODEL], "precisions": ["fp32"], "targets": ["cpu", "orin"]}
    workflow.config(lambda config: config.update(results=listed))
    workflow.build(report)
    carried = workflow.path(f"results/{MODEL}.fp32.orin.json")
    carried.write_text("{}")
    assert workflow.plan(report) == ["report"]
    workflow.build(report)
    assert workflow.plan(report) == []
    status, output = workflow.run("--report", "all.html", "--", report)
    whole = workflow.path("all.html").read_text()
    assert status == 0 and "Which engine to run on each target, and why" in whole, output
    carried.write_text("{ }")
    assert workflow.plan(report) == ["report"], "by content"


def test_a_bundle_follows_what_is_in_it(base, tmp_path):
    workflow, name = base.copy(tmp_path / "changed"), "results/digits/bundles/LeViT-tiny.{}.tar.gz"
    bundle = name.format("fp32.cpu")
    assert workflow.plan(bundle) == ["bundle fp32.cpu", "pick_samples"]
    assert workflow.build(bundle) == [f"bundle digits/bundles/{MODEL}.fp32.cpu.tar.gz"]
    workflow.edit("workflow_scripts/deployment/card.md", "## Run it", "## To run it")
    assert workflow.plan(bundle) == ["bundle fp32.cpu"]
    assert len(workflow.build(bundle)) == 1 and workflow.plan(bundle) == []
    workflow.config(row("datasets", "digits", license={"images": "MIT"}))
    assert workflow.plan(bundle, *result(*BUILT)) == ["bundle fp32.cpu"]
    deleted_result(workflow)
    assert workflow.plan(bundle) == ["assemble_result fp32.cpu", "bundle fp32.cpu"]
    assert {"bundle auto.cpu", *CHOICE} < set(workflow.plan(name.format("auto.cpu")))
    for kind in ("bundles", "triton"):
        status, output = workflow.run("-n", f"results/imagenet/{kind}/LeViT-tiny.fp32.cpu.tar.gz")
        assert status == 1 and "is of the active dataset, digits" in output


def test_a_model_repository_follows_its_bundle(base, tmp_path):
    workflow, name = base.copy(tmp_path / "changed"), "results/digits/triton/LeViT-tiny.{}.tar.gz"
    repository = name.format("fp32.cpu")
    assert workflow.plan(repository) == ["bundle fp32.cpu", "model_repository fp32.cpu", "pick_samples"]
    workflow.build(repository)
    assert workflow.plan(repository) == []
    workflow.edit("workflow_scripts/deployment/triton_client.py", "TIMEOUT = 60", "TIMEOUT = 61")
    assert workflow.plan(repository, *result(*BUILT)) == ["model_repository fp32.cpu"]
    workflow.build(repository)
    workflow.edit("workflow_scripts/deployment/triton.md", "## Ask it", "## Ask")
    assert workflow.plan(repository) == ["model_repository fp32.cpu"]
    assert {"model_repository auto.cpu", "bundle auto.cpu"} < set(workflow.plan(name.format("auto.cpu")))
    status, output = workflow.run("-n", "-p", name.format("fp32.ort"))
    assert status == 0 and "--graphs=results/digits/clean/LeViT-tiny.cpu.onnx" in output, "of its row in the base"


def test_override_as_text_is_the_same_value(base):
    options = ["--config", "seed=0", "targets={cpu: {iterations: 50, batches: [1, 16]}}"]
    assert base.plan(*result(*BUILT), options=options) == []


@pytest.mark.parametrize(
    "loss, problem",
    [
        ("budget", "not within the budget of top-1 points"),
        ("plan", "its plan's criterion is not met on the select split"),
    ],
)
def test_a_missed_budget_is_the_exit_status(base, tmp_path, loss, problem):
    """Everything is made, and a second run, which makes nothing, has nothing to complain about."""
    workflow, wanted = base.copy(tmp_path / "missed"), result("fp32.cpu")[0]
    deleted_result(workflow)
    status, output = workflow.run("--quiet", "--", *result(*BUILT), LEVIT_LOSES=f"assemble_result {loss}")
    assert status == 1 and f"error: {problem}: {wanted}" in output, output
    assert workflow.path(wanted).exists() and "Traceback" not in output
    assert workflow.run("--quiet", "--", *result(*BUILT))[0] == 0


def test_a_choice_of_which_none_qualifies_is_the_exit_status(base, tmp_path):
    workflow = base.copy(tmp_path / "missed")
    status, output = workflow.run("--quiet", "--", AUTO, LEVIT_LOSES="choose_precision budget")
    assert status == 1 and f"error: not within the budget of top-1 points: {AUTO}" in output, output
    assert workflow.path(AUTO).exists() and "Traceback" not in output
