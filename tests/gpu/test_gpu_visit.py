"""The scripts of a visit to a GPU, without one: the order of things, what is kept, and the checks on a fake GPU."""

import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import fake_gpu
import runtimes
from conftest import ROOT
from runtimes import _cuda, _gpu

VISIT = ROOT / "tests" / "gpu" / "visit.py"
STUB = """#!{python}
import pathlib, sys
name, given = pathlib.Path(sys.argv[1]).stem, dict(zip(sys.argv[2:], sys.argv[3:]))
what = given.get("--onnx", given.get("--engine", "")).split("/")[-1]
with open({calls!r}, "a") as stream:
    stream.write(name + " " + what + "\\n")
writes = {{"build_engine": ("--engine", "--description"), "fingerprint": ("--identity",)}}
writes.update(evaluate_engine=("--accuracy",), benchmark=("--benchmark",))
if name == "build_engine" and "int8" in given["--onnx"]:
    sys.exit(1)
for flag in writes.get(name, ()):
    pathlib.Path(given[flag]).write_text("{{}}")
if name in ("smoke", "cross_check"):
    pathlib.Path(sys.argv[4 if name == "cross_check" else 2]).write_text("{{}}")
"""


def test_order_and_what_is_lost_by_a_failure(tmp_path):
    calls, python, artifacts = tmp_path / "calls", tmp_path / "python", tmp_path / "digits"
    python.write_text(STUB.format(python=sys.executable, calls=str(calls)))
    python.chmod(0o755)
    for name in ("clean/LeViT-128S.gpu.onnx", "quantized/LeViT-128S.int8_qat.gpu.onnx", "data/x.val.u8"):
        (artifacts / name).parent.mkdir(parents=True, exist_ok=True)
        (artifacts / name).write_text("")
    stages = "fp32@64,int8_qat@64,fp16@1,int8_ptq@1"
    command = [sys.executable, VISIT, "--artifacts", artifacts, "--out", tmp_path / "out", "--python", python]
    for _ in range(2):
        subprocess.run([*map(str, command), "--stages", stages], check=True, capture_output=True)
    fp32, int8 = "build_engine LeViT-128S.gpu.onnx", "build_engine LeViT-128S.int8_qat.gpu.onnx"
    first = ["fingerprint ", fp32, "evaluate_engine fp32@64.engine", int8, fp32, "evaluate_engine fp16@1.engine"]
    first += ["benchmark fp32@64.engine", "benchmark fp16@1.engine", "cross_check ", "cross_check "]
    found = calls.read_text().splitlines()
    assert found.count("smoke ") == 2, "the stub leaves no smoke.done"
    found = [line for line in found if line != "smoke "]
    assert found == [*first, int8], "only what failed is tried again"
    steps = json.loads((tmp_path / "out" / "visit.json").read_text())["steps"]
    assert steps["int8_qat@64.build"]["status"] == 1 and steps["int8_ptq@1"]["status"] == "no graph"


@pytest.fixture
def fake(monkeypatch):
    cuda = fake_gpu.Cuda()
    monkeypatch.setattr(_cuda, "library", lambda: cuda)
    library = fake_gpu.library(cuda)

    def load(engine, threads=0, interface=None):
        return _gpu.GpuSession(library, fake_gpu.Engine(cuda, [(1, 8, 8)]), engine, interface)

    found = types.SimpleNamespace(load=load, library=lambda: library, profile=lambda engine, batch: [{"name": "a"}])
    monkeypatch.setattr(runtimes, "load", lambda name: found)


def test_cross_check(fake, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import cross_check

    monkeypatch.setattr(cross_check, "ENQUEUES", 50)
    monkeypatch.setattr(sys, "argv", ["cross_check.py", "net.engine", "8", str(tmp_path / "out.json")])
    cross_check.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert not [name for name, value in found.items() if isinstance(value, dict) and "error" in value]
    assert found["wall_graph"]["cuda_graph"] and not found["wall_no_graph"]["cuda_graph"]
    assert found["interfaces"] == {"Tensors": 0.0, "Bindings": 0.0}


def test_small_graphs_compute_what_they_say(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    script = ROOT / "tests" / "gpu" / "make_graphs.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env={**os.environ})
    images, wanted = np.load(tmp_path / "images.npy"), np.load(tmp_path / "logits.npy")
    for name, within in (("plain", 1e-5), ("quantized", 0.15)):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, {"input_0": images})[0] - wanted).max() < within
