"""The recipes of CONTRIBUTING.md work as they are written; test_documents.py runs the page's commands."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import contributing
from workflow import Workflow

RUNTIME = "import runtimes; print(runtimes.load('mine').fingerprint()['runtime'])"
CLEAN = """from graph import onnx_io, passes
onnx_io.save(passes.apply(onnx_io.load("in.onnx"), ["div_to_mul"]), "out.onnx")"""


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    workflow = Workflow.fresh(tmp_path_factory.mktemp("contributing") / "run")
    contributing.follow(workflow)
    return workflow


def python(workflow, program):
    """Return what a program prints that imports the workflow's modules."""
    variables = workflow.environment(PYTHONPATH=str(workflow.path("workflow_scripts")))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=workflow.folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_precision_is_quantized_and_makes_nothing_else(workflow):
    jobs = workflow.plan("results/LeViT-128S.int8_entropy.cpu.json")
    assert "calibrate int8_entropy" in jobs and "build_engine int8_entropy.cpu" in jobs
    assert not [job for job in jobs if "int8" in job and "int8_entropy" not in job]


def test_a_target_has_its_own_engine(workflow):
    assert "build_engine fp16.nano" in workflow.plan("results/LeViT-128S.fp16.nano.json")


def test_a_runtime_is_planned_with_and_loads(workflow):
    assert "build_engine fp32.mine" in workflow.plan("results/LeViT-128S.fp32.mine.json")
    assert python(workflow, RUNTIME) == "mine\n"


def test_a_pass_proves_itself(workflow):
    """On a graph with one division, which becomes a product."""
    images = helper.make_tensor_value_info("input_0", TensorProto.FLOAT, ["N", 3, 8, 8])
    logits = helper.make_tensor_value_info("output_0", TensorProto.FLOAT, ["N", 3, 8, 8])
    divisor = numpy_helper.from_array(np.float32([3]), "divisor")
    node = helper.make_node("Div", ["input_0", "divisor"], ["output_0"], name="divide")
    graph = helper.make_graph([node], "tiny", [images], [logits], [divisor])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), workflow.path("in.onnx")
    )
    python(workflow, CLEAN)
    assert [node.op_type for node in onnx.load(workflow.path("out.onnx")).graph.node] == ["Mul"]
