"""NNCF as a quantizer: its graph is ours with its pairs, OpenVINO runs it in INT8, and torch stays out of its way."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest

import engine_graphs
import runtimes
from conftest import ROOT
from core.files import canonical
from described import model_file
from runtimes import _macs

pytest.importorskip("nncf")

INT8 = {"compute": "int8", "high_precision": "fp32", "batches": [1], "threads": 2}
COUNT = 20


def call(folder, images=COUNT, **environment):
    """Run the command; return (status, its output)."""
    names = {"onnx": "net.onnx", "images": "calib.u8", "model": "model.json", "quantized": "q.onnx"}
    options = [f"--{name}={folder / file}" for name, file in names.items()]
    options += [f"--recipe={canonical({'backend': 'nncf', 'images': images})}", '--passes=["quantize", "split_linear"]']
    command = [sys.executable, str(ROOT / "workflow_scripts/quantize_nncf.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={"PATH": "/usr/bin", **environment})
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nncf")
    engine_graphs.network(folder / "net.onnx")
    size = engine_graphs.SIZE
    with open(folder / "calib.u8", "wb") as stream:
        np.save(stream, np.random.default_rng(0).integers(0, 256, (COUNT, size, size, 3)).astype(np.uint8))
    model_file(folder, {"size": size, "mean": [0.5] * 3, "std": [0.25] * 3}, "model.json")
    (folder / "torch.py").write_text("import os\nos._exit(9)")
    status, output = call(folder, PYTHONPATH=str(folder))
    assert status == 0, output
    assert len(output.splitlines()) <= 3, output
    return folder


def test_the_graph_keeps_its_nodes_and_has_pairs(folder):
    before, after = (onnx.load(folder / name).graph for name in ("net.onnx", "q.onnx"))
    names = [node.name for node in after.node]
    assert {node.name for node in before.node} <= set(names)
    assert sum(node.op_type == "DequantizeLinear" for node in after.node) > 5
    assert [value.name for value in (*after.input, *after.output)] == ["input_0", "output_0"]
    assert after.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_openvino_runs_it_in_int8(folder):
    runtime, engine = runtimes.load("openvino"), str(folder / "q.engine")
    described = runtime.build(str(folder / "q.onnx"), INT8, None, engine)
    assert described["precision_of_layers"]["int8"] >= 3
    assert _macs.int8_share(str(folder / "q.onnx"), described["layers"]) > 0.6
    images = engine_graphs.images(COUNT) / 2
    found, expected = runtime.load(engine, threads=1).run(images), engine_graphs.expected(images)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.95


def test_it_writes_the_same_bytes_again(folder):
    before = (folder / "q.onnx").read_bytes()
    assert call(folder)[0] == 0
    assert (folder / "q.onnx").read_bytes() == before


def test_it_records_what_wrote_it(folder):
    record = json.loads((folder / "q.onnx.provenance").read_text())
    assert record["versions"]["nncf"] and record["versions"]["openvino"]


def test_without_nncf_it_says_what_to_do(folder, tmp_path):
    (tmp_path / "nncf.py").write_text("raise ImportError('gone')")
    status, output = call(folder, 8, PYTHONPATH=str(tmp_path))
    assert status == 1 and output.splitlines()[-1].startswith("error: calibration.backend nncf is not installed here")
