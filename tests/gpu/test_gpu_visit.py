"""The scripts of a visit to a GPU, without one: the order of things, what is kept, and the checks on a fake GPU."""

import json
import os
import subprocess
import sys
import tarfile
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
with open({calls!r}, "a") as stream:
    stream.write(" ".join([name, given.get("--identity", ""), pathlib.Path(given.get("--engine", "")).name]) + "\\n")
if "int8" in given.get("--onnx", ""):
    sys.exit(1)
for flag in ("--identity", "--engine", "--description", "--accuracy", "--plugin", "--program"):
    made = given.get(flag, "")
    if made.startswith({out!r}) and not pathlib.Path(made).exists():
        pathlib.Path(made).write_text("{{}}")
for word in sys.argv:
    if word.startswith({out!r}) and word.endswith(("turns.json", "kernel.json", "cross.json")):
        pathlib.Path(word).write_text("{{}}")
"""


@pytest.fixture
def visit(tmp_path):
    """A staged folder with no more than names, and a function that runs a visit on it with stand-ins for Python."""
    out, calls = tmp_path / "out", tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(STUB.format(python=sys.executable, calls=str(calls), out=str(out)))
    python.chmod(0o755)
    files = {key: f"{key}.x" for key in ("images", "index", "reference", "model", "checkpoint")}
    graphs = {kind: f"{kind}.onnx" for kind in ("fp16", "fp16-fused", "int8_qat", "int8_qat-fused")}
    for name in ("whole", *files.values(), *graphs.values()):
        (tmp_path / "staged" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "staged" / name).write_text("")
    row = {"graphs": {**graphs, "fp32": "no.onnx", "fp32-fused": "no.onnx"}, "classes": 10, **files}
    (tmp_path / "staged/models.json").write_text(json.dumps({"LeViT-128S": row, "LeViT-256": row}))

    def run(*options):
        command = [sys.executable, VISIT, "run", tmp_path / "staged", out, "--python", python, "--torch-python", python]
        done = subprocess.run([*map(str, command), *options], check=True, capture_output=True, text=True)
        ran = calls.read_text().splitlines() if calls.exists() else []
        calls.write_text("")
        return ran, done.stdout.splitlines()[-1], json.loads((out / "visit.json").read_text())

    return run


def test_steps_come_in_order_and_once(visit, tmp_path):
    back = tmp_path / "back"
    ran, left, done = visit(
        "--budget-seconds", "1000", "--only", "tensorrt,plugin,LeViT-128S.fp16", "--back", str(back)
    )
    names = ["LeViT-128S.fp16-fused@64", "LeViT-128S.fp16@64"]
    assert ran[1] == "build_plugin {} ", "a step is given the identity that an earlier one wrote"
    built = [f"{script} {{}} {name}.engine" for name in names for script in ("build_engine", "evaluate_engine")]
    assert ran[2:7] == [*built, "turns  "]
    assert all("pixels" in name for name in left.split(", ")), "their graphs are of another step"
    assert all(step["status"] == 0 for step in done.values()) and len(done) == 15
    with tarfile.open(back / "visit.tar.gz") as archive:
        names = archive.getnames()
    assert "LeViT-128S.fp16@64.turns.json" in names and not [name for name in names if name.endswith(".engine")]
    assert visit("--budget-seconds", "1000", "--only", "tensorrt,plugin,LeViT-128S.fp16")[0] == []


def test_what_does_not_fit_waits_and_what_fails_comes_last(visit):
    ran, left, _ = visit("--budget-seconds", "22", "--only", "tensorrt,plugin,LeViT-128S.int8_qat")
    assert len(ran) == 1 and "plugin" in left, "20 s do not fit into what is left after the spare ones"
    _, left, done = visit("--budget-seconds", "1000", "--only", "tensorrt,plugin,LeViT-128S.int8_qat")
    assert done["LeViT-128S.int8_qat@64.build"]["status"] == 1
    assert (
        left == "left: LeViT-128S.int8_qat-fused@64.score, LeViT-128S.int8_qat@64.score, LeViT-128S.int8_qat@64.turns"
    )


def test_a_step_ends_with_the_budget(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import steps
    import visit

    slow = steps.Step("slow", "", 0, ("x",), (), ["bash", "-c", "sleep 60 & wait"])
    args = {
        "out": tmp_path / "out",
        "dir": tmp_path,
        "budget_seconds": visit.SPARE + 0.2,
        "gpus": "0",
        "back": None,
        "wait_for": None,
        "limit": 60,
    }
    one = visit.Visit(types.SimpleNamespace(**args, python="", torch_python=""), [slow])
    assert one.run() == [] and one.done["slow"]["status"] == -6 and one.done["slow"]["seconds"] < 10
    (tmp_path / "out/x").write_text("what a step that failed has left")
    assert not one.is_done(slow)


def test_a_step_takes_as_many_gpus_as_it_needs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import schedule
    import steps
    import visit

    def step(name, gpus=1, needs=(), **more):
        command = ["bash", "-c", f"sleep 0.1; echo $CUDA_VISIBLE_DEVICES > {tmp_path}/out/{name}"]
        return steps.Step(name, "", 1, (name,), needs, command, gpus=gpus, **more)

    every = [
        step("pair", 2),
        step("four", 4),
        step("first"),
        step("host", 0),
        *(step(n, shares=True) for n in "abcdefg"),
    ]
    every.append(step("after", 1, ("first",)))
    out, gpus = tmp_path / "out", schedule.Gpus("35")
    planned = [
        (begin, step.name, "".join(names)) for begin, _, names, step in schedule.simulate([*every], out, gpus, 60)
    ]
    assert planned[:3] == [(0, "pair", "35"), (0, "host", ""), (1, "first", "3")], "four GPUs are not there"
    assert planned[3:9] == [(1, name, "5") for name in "abcdef"], "no more share a GPU"
    assert {name for begin, name, _ in planned[9:] if begin == 2} == {"after", "g"}
    assert gpus.free == ["3", "5"] and not gpus.shared
    args = {
        "out": out,
        "dir": tmp_path,
        "budget_seconds": 60,
        "gpus": "3,5",
        "back": None,
        "wait_for": None,
        "limit": 60,
    }
    one = visit.Visit(types.SimpleNamespace(**args, python="", torch_python=""), every)
    assert one.run() == ["four"] and sorted(one.done) == sorted([*"abcdefg", "after", "first", "host", "pair"])
    assert (out / "pair").read_text() == "3,5\n" and (out / "host").read_text() == "\n"
    assert {(out / name).read_text() for name in "abcdef"} == {"5\n"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {8, 9, 10, 11, 12})
    assert [one.cores(gpus) for gpus in ("3", "5", "3,5", "")] == ["8,9", "10,11", "8,9,10,11", "8,9,10,11,12"]


def test_a_kit_is_shared_and_its_outputs_come_back_in_pieces(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import visit

    staged, out, back = tmp_path / "staged", tmp_path / "out", tmp_path / "back"
    (staged / "kit").mkdir(parents=True)
    jobs = [
        {"argv": [f"{name}.py", f"results/{name}"], "target": "gpu", "outputs": [f"results/{name}"]} for name in "ab"
    ]
    for name in "ab":
        (staged / f"kit/{name}.py").write_text("import sys; open(sys.argv[1], 'w').write('made')")
    (staged / "kit/results").mkdir()
    (staged / "kit/kit.json").write_text(json.dumps({"jobs": jobs, "inputs": {}, "results": []}))
    os.symlink(ROOT / "workflow_scripts", staged / "kit/workflow_scripts")
    command = [sys.executable, str(ROOT / "tests/gpu/kit_part.py"), "part", "/b"]
    subprocess.run(command, cwd=staged / "kit", check=True, capture_output=True)
    assert [path.name for path in (staged / "kit/results").iterdir()] == ["b"]
    assert list((staged / "kit/results").iterdir())[0].read_text() == "made"
    done = subprocess.run([*command[:2], "rest"], cwd=staged / "kit", check=True, capture_output=True, text=True)
    assert "a.py" in done.stdout and "b.py" not in done.stdout and (staged / "kit/outputs.tar").exists()
    with open(staged / "kit/outputs.tar", "wb") as stream:
        stream.truncate(61 << 20)
    args = {"out": out, "dir": staged, "budget_seconds": 60, "gpus": "0", "back": str(back), "wait_for": None}
    one = visit.Visit(types.SimpleNamespace(**args, python="", torch_python=""), [])
    one.note("kit", {"status": 0, "seconds": 1, "gpu": "0"})
    for names in (["00", "01", "02"], ["03", "04"]):
        one.give_kit()
        assert sorted(path.name for path in back.glob("outputs.tar.*")) == [f"outputs.tar.{name}" for name in names]
        for path in back.glob("outputs.tar.*"):
            path.unlink()


@pytest.fixture
def fake(monkeypatch):
    cuda = fake_gpu.Cuda()
    monkeypatch.setattr(_cuda, "library", lambda: cuda)
    library = fake_gpu.library(cuda)

    def load(engine, threads=0, interface=None):
        return _gpu.GpuSession(library, fake_gpu.Engine(cuda, [(1, 8, 8)]), engine, interface)

    layer = {"name": "a", "type": "Conv", "precision": "fp16", "ms": 0.25}
    found = types.SimpleNamespace(load=load, library=lambda: library, profile=lambda engine, batch: [layer])
    monkeypatch.setattr(runtimes, "load", lambda name: found)


def test_cross_check(fake, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import cross_check

    monkeypatch.setattr(cross_check, "ENQUEUES", 50)
    monkeypatch.setattr(sys, "argv", ["cross_check.py", "net.engine", "8", str(tmp_path / "out.json"), "50"])
    cross_check.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert not [name for name, value in found.items() if isinstance(value, dict) and "error" in value]
    assert found["wall_graph"]["cuda_graph"] and not found["wall_no_graph"]["cuda_graph"]
    assert found["interfaces"] == {"Tensors": 0.0, "Bindings": 0.0}


def test_engines_in_turns_become_a_page(fake, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "gpu"))
    import turns
    import write_tables

    names = ["LeViT-128S.fp16@8", "LeViT-128S.fp16-fused@8"]
    for name in ("WARMUP_MS", "FIRST_MS", "TURN_MS", "LEAST"):
        monkeypatch.setattr(turns, name, 1)
    words = [str(tmp_path / "LeViT-128S.fp16@8.turns.json"), "8", *(f"{name}.engine" for name in names)]
    monkeypatch.setattr(sys, "argv", ["turns.py", *words])
    turns.main()
    found = json.loads((tmp_path / "LeViT-128S.fp16@8.turns.json").read_text())["engines"]
    assert list(found) == names and all(len(facts["rounds_ms"]) == 12 for facts in found.values())
    assert found[names[0]]["over_first"]["ratio"] == 1 and found[names[1]]["cuda_graph"]
    entry = {"batch": 8, "compute_ms": {"median": 9.5}}
    (tmp_path / "LeViT-128S.torch-fused@1+64.benchmark.json").write_text(json.dumps({"benchmark": [entry]}))
    (tmp_path / f"{names[0]}.accuracy.json").write_text(json.dumps({"top1": 98.25, "logit_error_over_spread": 0.02}))
    cases = {"finetune bf16, 2": {"seconds": 9.5, "gpu_percent": [90, 88], "top1": 98.5}}
    (tmp_path / "parallel.2.json").write_text(json.dumps({"device": "cuda", "processes": 2, **cases}))
    speeds = {"in memory": [1000.0, 1100.0], "JPEG files": [912.4, 920.0]}
    found = {"images_per_s": speeds, "gpu_percent": dict.fromkeys(speeds, [97.0, 98.0]), "cores": 16}
    (tmp_path / "files.M.2.json").write_text(json.dumps(found))
    for seed, score, speeds in (("0", 98.0, [500, 700]), ("1", 97.0, [])):
        found = {"training": {"batch": 32}, "images_per_s": {seed: speeds}, "top1": {seed: score}}
        found.update(dataset="digits", processes=2)
        (tmp_path / f"accuracy.digits.2.{seed}.json").write_text(json.dumps(found))
    (tmp_path / "visit.json").write_text(json.dumps({"kernel": {"status": 0, "seconds": 3.5, "gpu": "0"}}))
    (tmp_path / "memcheck.txt").write_text("text\n========= ERROR SUMMARY: 0 errors\n")
    over = {"ratio": 0.8, "low": 0.75, "high": 0.85}
    pair = {"M.fp16-fused@64": {"ms": 2, "over_first": over}, "M.torch-both@1+64": {"ms": 2.5, "over_first": over}}
    (tmp_path / "M@64.across.json").write_text(json.dumps({"batch": 64, "engines": pair}))
    (tmp_path / "M.pixels@64.transfers.json").write_text(json.dumps({"batch": 64, "engines": pair}))
    (tmp_path / "bundle").mkdir()
    printed = "$ kit\n\n$ py classify.py selftest\nselftest passed\n\n$ classify . --benchmark\n 9.5 images/s of a\n"
    (tmp_path / "bundle/done.txt").write_text(printed)
    (tmp_path / "qat.cuda.json").write_text(json.dumps({"device": "cuda", "seconds": 9, "top1": {"cuda": 98.5}}))
    (tmp_path / "models").mkdir()
    done = {"device": "cuda", "seconds": {"train": 70.5}, "top1": 97.5}
    (tmp_path / "models/LeViT-384.trained.json").write_text(json.dumps(done))
    facts = {"model": "M", "processes": 2, "batch": 512, "images_per_s": [900], "gpu_percent": [91]}
    (tmp_path / "scaling.2.json").write_text(json.dumps(facts))
    page = write_tables.page(tmp_path)
    assert "| LeViT-128S fp16 | 8 | " in page and "| 98.25 %, - | 0.02, - |" in page
    assert "| LeViT-128S | 8 | CUDA graph, attention in Triton | 9.5000 | " in page
    assert "| Conv fp16 | 1, 0.250 | 1, 0.250 |" in page and "| memcheck | ERROR SUMMARY: 0 errors |" in page
    assert "| kernel | 0 | 3.5 |" in page
    assert "| M | 64 | torch.compile, attention in Triton | 2.5000 | 1.25x (1.18 to 1.33) |" in page
    assert "| M.torch-both@1+64 | 2.5000 | 0.80x (0.75 to 0.85) | - |" in page
    assert "| Python | selftest passed |" in page and "| C++ | 9.5 images/s of a |" in page
    assert "| cuda | 1 | 9 | cuda: 98.50 % |" in page and "| LeViT-384 | cuda | 70.5 | 97.50 % |" in page
    assert "| M | 2 | 512 | [900] |" in page
    assert "| finetune bf16, 2 | 9.5 | 98.5 | [90, 88] |" in page
    assert "| files | M | 2 | 16 | JPEG files | 912, 920 | 0.87x | 97, 98 |" in page
    assert "| digits | 2 | bf16 | 32 | 98.00, 97.00 | 97.50 | 600 |" in page


def test_small_graphs_compute_what_they_say(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    script = ROOT / "tests" / "gpu" / "make_graphs.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, env={**os.environ})
    images, wanted = np.load(tmp_path / "images.npy"), np.load(tmp_path / "logits.npy")
    for name, within in (("plain", 1e-5), ("quantized", 0.15)):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        assert np.abs(session.run(None, {"input_0": images})[0] - wanted).max() < within
