"""Changes of a precision's row: plan, calibration, quantization-aware training."""

import pytest

from staleness import (
    AUTO,
    BUILT,
    CALIBRATED,
    CHOICE,
    CPU,
    MODEL,
    PTQ_PLAN,
    PTQ_RANGES,
    QAT,
    QAT_PLAN,
    RETRAINING,
    Changes,
    builds,
    engine,
    planned,
    quantized,
    result,
    row,
)

CHANGES = Changes()
change = CHANGES.change


@change(["assemble_result fp32.cpu", "assemble_result fp32.ort"])
def budget_of_a_precision_without_a_plan(workflow):
    workflow.config(row("precisions", "fp32", budget=9.0))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")])
def criterion_of_a_plan(workflow):
    workflow.config(row("precisions", "int8_ptq", criterion={"agreement": 90.0}))


@change(quantized("int8_ptq"), builds("int8_ptq.cpu"))
def no_plan(workflow):
    workflow.config(row("precisions", "int8_ptq", fallback="none"))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")])
def plan_made_by_hand(workflow):
    workflow.path("mine.json").write_text('{"nodes": []}')
    workflow.config(row("precisions", "int8_ptq", fallback={"plan": "mine.json"}))


@change(planned("int8_ptq"), [PTQ_PLAN, *builds("int8_ptq.cpu")], slow=True)
def budget(workflow):
    workflow.config(row("precisions", "int8_ptq", budget=9.0))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
def calibration_method(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration={"method": "mse", "images": 256}))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")], slow=True)
def calibration_size(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration={"method": "entropy", "images": 64}))


SWEPT = {"method": "sweep", "images": 256, "candidates": [{"method": "max"}, {"method": "mse", "weights": "mse"}]}


SWEEP = f"sweep_calibration digits/sweeps/{MODEL}.int8_ptq.json"


@change(
    ["sweep_calibration int8_ptq", "calibrate int8_ptq", *planned("int8_ptq")],
    [SWEEP, PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")],
)
def sweep_in_place_of_a_recipe(workflow):
    workflow.config(row("precisions", "int8_ptq", calibration=SWEPT))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")], slow=True)
def parts_of_a_recipe(workflow):
    recipe = {"method": "entropy", "images": 256, "equalize": True, "smoothing": 0.5, "bias_correction": True}
    workflow.config(row("precisions", "int8_ptq", calibration=recipe))


@change(["calibrate int8_ptq", *planned("int8_ptq")], [PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")], slow=True)
def imported_ranges(workflow):
    workflow.path(f"{MODEL}.quantized.pth").write_text("ranges")
    recipe = {"method": "entropy", "images": 256, "import": "{model}.quantized.pth"}
    workflow.config(row("precisions", "int8_ptq", calibration=recipe))


@change(CALIBRATED, [RETRAINING, PTQ_PLAN, QAT_PLAN, *builds("int8_ptq.cpu", "int8_qat.cpu")])
def swapped_calibrations(workflow):
    def swap(config):
        ptq, qat = config["precisions"]["int8_ptq"], config["precisions"]["int8_qat"]
        ptq["calibration"], qat["calibration"] = qat["calibration"], ptq["calibration"]

    workflow.config(swap)


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")])
def qat_epochs(workflow):
    workflow.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(epochs=7))


@change(QAT, [RETRAINING, QAT_PLAN, *builds("int8_qat.cpu")], slow=True)
def qat_scales(workflow):
    workflow.config(lambda config: config["precisions"]["int8_qat"]["qat"].update(scales="learned", ema=0.5))


@change(engine("int8_ptq.cpu"), builds("int8_ptq.cpu"), slow=True)
def high_precision(workflow):
    workflow.config(row("precisions", "int8_ptq", high_precision="bf16"))


@change(
    ["calibrate mine", *planned("mine")],
    [f"{work}/{MODEL}.mine.json" for work in ("calibrate digits/calibration", "plan_precision digits/plans")]
    + builds("mine.cpu"),
    result("mine.cpu"),
)
def new_precision(workflow):
    def add(config):
        config["precisions"]["mine"] = {**config["precisions"]["int8_ptq"], "calibration": {"method": "percentile"}}

    workflow.config(add)


@change([*(f"evaluate_engine select.{name}" for name in CPU), *CHOICE], targets=[AUTO])
def choice_of_a_precision(workflow):
    workflow.config(row("precisions", "auto", choose=[name.split(".")[0] for name in CPU]))


@change(CHOICE, targets=[AUTO], slow=True)
def budget_of_a_choice(workflow):
    choice_of_a_precision(workflow)
    workflow.build(AUTO)
    workflow.config(row("precisions", "auto", budget=0.7))


@change(["choose_precision auto.cpu"], targets=[AUTO])
def objective_of_a_choice(workflow):
    choice_of_a_precision(workflow)
    workflow.build(AUTO)
    workflow.config(row("precisions", "auto", objective="throughput within 20 ms at p99"))


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")


def test_a_sweep_follows_its_candidates_and_a_calibration_follows_the_sweep(base, tmp_path):
    workflow = base.copy(tmp_path / "changed")
    sweep_in_place_of_a_recipe(workflow)
    workflow.build(*result(*BUILT))
    steps = ["sweep_calibration int8_ptq", "calibrate int8_ptq", *planned("int8_ptq")]
    for change_of_it in ({"candidates": SWEPT["candidates"][:1]}, {"images": 64}):
        workflow.config(row("precisions", "int8_ptq", calibration={**SWEPT, **change_of_it}))
        assert workflow.plan(*result(*BUILT)) == sorted(steps)
        assert workflow.build(*result(*BUILT)) == sorted([SWEEP, PTQ_RANGES, PTQ_PLAN, *builds("int8_ptq.cpu")])
