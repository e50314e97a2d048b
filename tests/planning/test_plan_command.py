"""The command line that plans, on digits: a hand-made plan with a typo, a criterion that nothing meets."""

import json
import subprocess

import numpy as np
import pytest
from test_graph import CLASS_PASSES, CLASSES, EVERYTHING, SIZE

import forks
from conftest import ROOT
from core.files import canonical
from data import cache, index, preprocess
from graph import onnx_io, passes
from model import export
from quantizing import VISION, Digits

GRAPH = {"passes": CLASS_PASSES["gpu"], "placement": EVERYTHING}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A network with its dataset, and the FP32 logits of the select split."""
    digits = Digits(tmp_path_factory.mktemp("plan"))
    session = onnx_io.runner(onnx_io.to_model(clean(digits)))
    count = len(index.labels(index.read(digits["index.json"]), "select"))
    images = preprocess.normalize(cache.read(digits["select.u8"], count), VISION["mean"], VISION["std"])
    np.save(digits["reference.npy"], session.run(None, {onnx_io.INPUT: images})[0])
    return digits


def clean(digits):
    return passes.apply(onnx_io.from_model(export.to_onnx(digits.folded(), SIZE)), GRAPH["passes"])


def planned(digits, criterion, reference="reference.npy", nodes=None):
    """Run the command; return (status, its output, the plan or None). nodes: of a plan made by hand."""
    values = {"checkpoint": "m.pth", "calib-images": "calib.u8", "images": "select.u8", "index": "index.json"}
    values = {name: digits[value] for name, value in {**values, "reference": reference, "plan": "plan.json"}.items()}
    if nodes is not None:
        (digits.folder / "mine.json").write_text(json.dumps({"nodes": nodes}))
        values["given"] = digits["mine.json"]
    recipe = {"compute": "fp16", "budget": 100.0, "criterion": criterion}
    values.update(model=digits.model, classes=str(CLASSES), graph=canonical(GRAPH), recipe=canonical(recipe))
    (digits.folder / "plan.json").unlink(missing_ok=True)
    command = [
        forks.python_with_torch(),
        ROOT / "workflow_scripts/plan_precision.py",
        *(f"--{k}={v}" for k, v in values.items()),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    path = digits.folder / "plan.json"
    return done.returncode, done.stderr, json.loads(path.read_text()) if path.exists() else None


def test_a_hand_made_plan_with_a_typo(digits):
    name = next(node.name for node in clean(digits).nodes if node.op == "Gemm")
    status, output, plan = planned(digits, {}, nodes=[name.replace("Gemm", "Gem")])
    line = output.strip().splitlines()[-1]
    assert status == 1 and plan is None and "Traceback" not in output
    assert line.startswith("error: ") and f"has no node {name[:-1]}: did you mean " in line and name in line


def test_a_hand_made_plan_is_honoured(digits):
    name = next(node.name for node in clean(digits).nodes if node.op == "Gemm")
    status, output, plan = planned(digits, {}, nodes=[name])
    assert status == 0, output
    assert [node["name"] for node in plan["nodes"]] == [name] and plan["met"]


def test_a_criterion_that_nothing_meets(digits):
    """FP32 itself is far from these answers: the best is given, and both the file and the log say that it misses."""
    np.save(digits["other.npy"], -np.load(digits["reference.npy"]))
    status, output, plan = planned(digits, {"agreement": 100.0}, "other.npy")
    assert status == 0 and "warning: no plan meets the criterion" in output
    assert not plan["met"] and plan["measured"]["slack"] < 0
