"""Other versions of the packages that jobs import."""

import pytest

from staleness import (
    AFTER_TRAINING,
    BUILT,
    CALIBRATED,
    CHECKPOINT,
    CPU,
    DECODING,
    EXPORTED,
    IMAGES,
    PTQ_PLAN,
    PTQ_RANGES,
    QAT_PLAN,
    QAT_RANGES,
    RESOLVED,
    TRAINING,
    Changes,
    builds,
    engine,
    planned,
    upgrade,
)

CHANGES = Changes()
change = CHANGES.change


@change(["fingerprint cpu", *engine(*CPU)], builds(*CPU))
def version_of_a_runtime(workflow):
    upgrade(workflow, "openvino")


UNTRAINED = [job for job in CHECKPOINT if job != "train"]


RECALIBRATED = [PTQ_RANGES, QAT_RANGES, PTQ_PLAN, QAT_PLAN, *builds(*BUILT)]


@change([*RESOLVED], RECALIBRATED)
def version_of_torch_and_timm(workflow):
    """What was trained is kept: its jobs are planned behind others, and its work is not done again."""
    upgrade(workflow, "torch", "timm")


@change(UNTRAINED, RECALIBRATED, slow=True)
def version_of_torch(workflow):
    upgrade(workflow, "torch")


@change(CALIBRATED, [PTQ_RANGES, QAT_RANGES, PTQ_PLAN, QAT_PLAN, *builds(*CPU[1:])], slow=True)
def version_of_modelopt(workflow):
    upgrade(workflow, "nvidia-modelopt")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [*DECODING, *RECALIBRATED])
def version_of_pillow(workflow):
    upgrade(workflow, "pillow")


@change(["index_dataset", *IMAGES, *CHECKPOINT], [*DECODING, *RECALIBRATED], slow=True)
def version_of_pillow_without_a_store(workflow):
    workflow.config(lambda config: config.update(store=None))
    upgrade(workflow, "pillow")


@change([*EXPORTED, *planned("int8_ptq", "int8_qat")], [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)])
def version_of_onnx(workflow):
    upgrade(workflow, "onnx")


@change(
    ["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *planned("int8_ptq", "int8_qat")],
    [PTQ_PLAN, QAT_PLAN, *builds(*BUILT)],
    slow=True,
)
def version_of_onnx_graphsurgeon(workflow):
    upgrade(workflow, "onnx-graphsurgeon")


@change(CHECKPOINT, [TRAINING, *AFTER_TRAINING])
def version_of_torch_where_upgrades_retrain(workflow):
    workflow.config(lambda config: config.update(retrain_on_upgrade=True))
    upgrade(workflow, "torch")


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")
