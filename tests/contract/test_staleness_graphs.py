"""Changes of a graph variant's row, and of the rules of a DLA."""

import pytest

from staleness import BUILT, DLA, PTQ_PLAN, QAT_PLAN, Changes, builds, engine, planned, quantized, row

CHANGES = Changes()
change = CHANGES.change


@change(planned("int8_ptq", "int8_qat"), [PTQ_PLAN, QAT_PLAN, *builds("int8_ptq.cpu", "int8_qat.cpu")])
def passes_of_the_class_that_plans_name(workflow):
    workflow.config(lambda config: config["graphs"]["gpu"]["passes"].append("split_to_slices"))


@change([*quantized("int8_ptq", "int8_qat")], builds("int8_ptq.cpu", "int8_qat.cpu"))
def placement_of_quantizers(workflow):
    workflow.config(row("graphs", "cpu", placement=["conv"]))


@change([*quantized("int8_ptq", "int8_qat")], builds("int8_ptq.cpu", "int8_qat.cpu"), slow=True)
def type_of_quantized_activations(workflow):
    workflow.config(row("graphs", "cpu", activations="uint8"))


@change([*quantized("int8_ptq", "int8_qat")], builds("int8_ptq.cpu", "int8_qat.cpu"))
def type_of_quantized_probabilities(workflow):
    other = {"int8": "uint8", "uint8": "int8"}
    workflow.config(lambda c: c["graphs"]["cpu"].update(probabilities=other[c["graphs"]["cpu"]["probabilities"]]))


@change([*quantized("int8_ptq", "int8_qat")], builds("int8_ptq.cpu", "int8_qat.cpu"), slow=True)
def chained_layers(workflow):
    workflow.config(row("graphs", "cpu", chained=True))


@change(["clean_onnx cpu", *engine("fp32.cpu", "fp32.ort"), *quantized("int8_ptq", "int8_qat")], builds(*BUILT))
def surgeon_passes(workflow):
    workflow.config(lambda config: config["graphs"]["cpu"]["passes"].append("split_to_slices"))


@change(["clean_onnx dla1", "dla_fit fp16_dla.xavier"], targets=[DLA])
def report_of_a_dla(workflow):
    pass


@change(["dla_fit fp16_dla.xavier"], targets=[DLA], slow=True)
def batch_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.config(row("precisions", "fp16_dla", batches=[4]))


@change(["clean_onnx dla1", "dla_fit fp16_dla.xavier"], targets=[DLA], slow=True)
def passes_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.config(lambda config: config["graphs"]["dla1"]["passes"].append("split_to_slices"))


@change(["dla_fit fp16_dla.xavier"], targets=[DLA])
def rules_of_a_dla(workflow):
    workflow.build(DLA)
    workflow.edit("workflow_scripts/dla/rules.yaml", "loadables: 16", "loadables: 8")


@change([], targets=[DLA])
def facts_that_a_dla_does_not_depend_on(workflow):
    workflow.build(DLA)
    workflow.config(row("targets", "xavier", iterations=77, workspace_mb=64))
    workflow.config(row("precisions", "fp16_dla", budget=7.0))


@pytest.mark.parametrize("name", CHANGES.names())
def test_change_costs_exactly(name, base, tmp_path):
    CHANGES.check(name, base, tmp_path / "changed")
