"""PyTorch as a runtime, eager and compiled; apart from tests/runtimes, because OpenVINO and torch share no process."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import runtimes
from conftest import ROOT
from core.files import UserError
from devices import probe
from measure import timing
from model import deploy, zoo
from runtimes import _attention, _container, _program, pytorch

SIZE = 32
OPTIONS = {"embed_dim": [32, 48, 64], "num_heads": [2, 3, 4], "depth": [1, 1, 1]}
ROW = {"timm": "levit_128s", "options": OPTIONS, "size": SIZE}
RECIPE = {"compute": "fp32", "batches": [1, 3]}


def images(count):
    return np.random.default_rng(count).standard_normal((count, 3, SIZE, SIZE), dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return deploy.fold(zoo.create(ROW, 10).eval(), torch.from_numpy(images(2)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pytorch")


@pytest.fixture(scope="module")
def program(network, folder):
    path = folder / "net.pt2"
    path.write_bytes(_program.serialize(_program.export(network, SIZE)))
    return str(path)


@pytest.fixture(scope="module")
def built(program, folder):
    """Return a function that builds an engine once: (path, description)."""
    engines = {}

    def build(**recipe):
        key = json.dumps(recipe)
        if key not in engines:
            path = str(folder / f"{len(engines)}.engine")
            engines[key] = path, pytorch.build(program, {**RECIPE, **recipe}, None, path)
        return engines[key]

    return build


@pytest.mark.parametrize("compute, tolerance", [("fp32", 1e-5), ("bf16", 0.1), ("fp16", 0.01)])
def test_logits_in_every_precision_and_batch(network, built, compute, tolerance):
    session = pytorch.load(built(compute=compute)[0], threads=1)
    for count in (1, 2, 5):
        with torch.no_grad():
            wanted = network(torch.from_numpy(images(count))).numpy()
        found = session.run(images(count))
        assert found.dtype == np.float32
        assert 0 <= np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def test_weights_are_converted(built):
    sizes = {compute: Path(built(compute=compute)[0]).stat().st_size for compute in ("fp32", "bf16", "fp16")}
    assert sizes["bf16"] < 0.75 * sizes["fp32"] and sizes["fp16"] < 0.75 * sizes["fp32"]


@pytest.mark.parametrize("compute", ["fp32", "bf16", "fp16"])
def test_layers_say_where_and_in_what(built, compute):
    _, described = built(compute=compute)
    by_type = {layer["type"] for layer in described["layers"]}
    assert {"conv2d", "linear", "matmul", "softmax", "hardswish"} <= by_type and "view" not in by_type
    computing = [layer for layer in described["layers"] if layer["type"] != "Cast"]
    assert {layer["precision"] for layer in computing} == {compute}
    assert "stages.0.blocks.0.mlp.ln1/linear_2" in {layer["name"] for layer in described["layers"]}
    assert described["warnings"] == [] and described["reformats"] == (0 if compute == "fp32" else 2)


@pytest.mark.parametrize("compute", [pytest.param("fp32", marks=pytest.mark.slow), "fp16"])
def test_equal_bytes(program, built, tmp_path, compute):
    again = str(tmp_path / "again.engine")
    pytorch.build(program, {**RECIPE, "compute": compute}, None, again)
    assert Path(again).read_bytes() == Path(built(compute=compute)[0]).read_bytes()


def test_no_path_of_this_machine_is_in_an_archive(program, built):
    for data in (Path(program).read_bytes(), Path(built(compute="fp16")[0]).read_bytes()):
        assert b"site-packages" not in data and str(Path(__file__).parents[2]).encode() not in data


def small():
    """Return a network that Inductor compiles soon."""
    layers = torch.nn.Conv2d(3, 4, 3, stride=8), torch.nn.Hardswish(), torch.nn.Flatten(), torch.nn.Linear(64, 10)
    return torch.nn.Sequential(*layers).eval()


@pytest.mark.parametrize("what", ["small", pytest.param("levit", marks=pytest.mark.slow)])
def test_compiled(network, monkeypatch, tmp_path, what):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    if what == "small":  # Inductor compiles a program for each instruction set that it asks the processor for
        monkeypatch.setattr(torch._inductor.config.cpp, "vec_isa_ok", False)
        monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # else it starts processes that import torch
    network, program, path = (
        {"small": small(), "levit": network}[what],
        tmp_path / "net.pt2",
        str(tmp_path / "e.engine"),
    )
    program.write_bytes(_program.serialize(_program.export(network, SIZE)))
    described = pytorch.build(str(program), {**RECIPE, "compile": True}, None, path)
    assert described["batches"] == [1, 3] and any((tmp_path / "inductor").iterdir())
    session = pytorch.load(path)
    with torch.no_grad():
        wanted = network(torch.from_numpy(images(4))).numpy()  # in two queries, of which one is padded
    assert np.allclose(session.run(images(4)), wanted, atol=1e-4)
    with pytest.raises(UserError, match="no batch 2, only 1, 3"):
        session.time(images(2), timing.Loop(1, 1, 1))
    kernels = pytorch.profile(path, 1, queries=2)
    assert sum(layer["ms"] for layer in kernels) > 0 and all(layer["type"] == "kernel" for layer in kernels)


def test_no_compiler(program, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda images: (_ for _ in ()).throw(RuntimeError("no g++")))
    with pytest.raises(UserError, match=r"cannot compile it for batch 1 \(RuntimeError: no g\+\+\): install a C\+\+"):
        pytorch.build(program, {**RECIPE, "compile": True}, None, str(tmp_path / "x.engine"))


def test_attention_as_one_operator(network, built):
    path, described = built(fused_attention=True)
    names = [layer["name"] for layer in described["layers"] if layer["type"] == "attention"]
    assert len(names) == 5 and "stages.1.downsample.attn_downsample/attention_1" in names
    assert not {"softmax", "matmul"} & {layer["type"] for layer in described["layers"]}
    with torch.no_grad():
        wanted = network(torch.from_numpy(images(5))).numpy()
    assert np.allclose(pytorch.load(path).run(images(5)), wanted, atol=1e-5)
    assert np.allclose(pytorch.load(built(fused_attention=True, compute="fp16")[0]).run(images(5)), wanted, atol=0.05)


def test_a_network_without_a_levits_attention_is_left_as_it_is(tmp_path):
    class Other(torch.nn.Module):
        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return torch.nn.functional.hardswish((x @ x.transpose(1, 2)).softmax(-1) @ x).mean(1)

    (tmp_path / "other.pt2").write_bytes(_program.serialize(_program.export(Other(), SIZE)))
    build = [{**RECIPE, **more} for more in ({}, {"fused_attention": True})]
    layers = [
        pytorch.build(str(tmp_path / "other.pt2"), recipe, None, str(tmp_path / "x"))["layers"] for recipe in build
    ]
    assert layers[0] == layers[1]


def test_fused_attention_that_computes_something_else_is_refused(program, tmp_path, monkeypatch):
    monkeypatch.setattr(_attention, "TOLERANCE", -1)
    with pytest.raises(UserError, match="changes the logits by .*: leave out fused_attention"):
        pytorch.build(program, {**RECIPE, "fused_attention": True}, None, str(tmp_path / "x.engine"))


KERNEL = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from runtimes import _attention, _attention_kernel
for heads, key_dim, val_dim, queries, keys, own in SHAPES:
    for dtype, limit in ((torch.float32, 2e-6), (torch.float16, 1e-3)):
        torch.manual_seed(0)
        tokens = torch.randn(2, keys, heads * ((1 if own else 2) * key_dim + val_dim)).to(dtype)
        q = torch.randn(2, queries, heads * key_dim).to(dtype) if own else None
        bias = 2 * torch.randn(heads, queries, keys).to(dtype)
        got = _attention_kernel.attention(tokens, q, bias, key_dim, val_dim).double()
        wanted = _attention.reference(tokens.double(), q if q is None else q.double(), bias.double(), key_dim, val_dim)
        assert (got - wanted).norm() < limit * wanted.norm(), (heads, queries, keys, dtype)
"""
SHAPES = [(2, 16, 32, 70, 70, 0), (2, 16, 64, 9, 70, 1), (3, 24, 40, 17, 17, 0), (2, 16, 32, 1, 1, 0)]


def test_the_kernel_in_tritons_interpreter():
    """As Triton runs it on a processor; on a GPU tests/gpu/attention_kernel.py compares it."""
    pytest.importorskip("triton")
    command = [sys.executable, "-c", f"SHAPES = {SHAPES}\n{KERNEL}", str(ROOT / "workflow_scripts")]
    subprocess.run(command, check=True, env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})


def test_time_and_profile(built):
    path, described = built(compute="bf16")
    session = pytorch.load(path, threads=1)
    assert session.facts == {"threads": 1, "cuda_graph": None} and not session.on_gpu
    timed = session.time(images(2), timing.Loop(1, 20, 5))
    assert len(timed.latency) >= 5 and timed.h2d is None and (timed.latency > 0).all()
    rows = pytorch.profile(path, 2, threads=1, queries=2)
    assert [row["name"] for row in rows] == [layer["name"] for layer in described["layers"]]
    assert all(row["ms"] > 0 for row in rows)


@pytest.mark.parametrize("recipe, message", [({"compute": "int8"}, "cannot compute in int8 here: one of fp32, bf16"),
                                             ({"device": "cuda"}, "cannot use a GPU here")])  # fmt: skip
def test_refusals(program, tmp_path, recipe, message):
    if recipe.get("device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=message):
        pytorch.build(program, {**RECIPE, **recipe}, None, str(tmp_path / "x.engine"))
    with pytest.raises(UserError, match="takes no plan"):
        pytorch.build(program, RECIPE, {"nodes": []}, str(tmp_path / "x.engine"))


def test_bad_files(built, program, tmp_path):
    path, broken = built()[0], tmp_path / "broken.engine"
    broken.write_bytes(Path(path).read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole engine file"):
        pytorch.load(str(broken))
    header, parts = _container.read(path, probe.facts("pytorch"))
    _container.write(str(broken), {**header, "version": "2.0"}, parts)
    with pytest.raises(UserError, match="was built for version 2.0"):
        pytorch.load(str(broken))
    with pytest.raises(UserError, match="not a whole archive of torch.export"):
        _program.load("p.pt2", Path(program).read_bytes()[:-200])
    for data in (b"", b"PK", json.dumps({}).encode()):
        with pytest.raises(UserError, match="not a whole archive"):
            _program.load("p.pt2", data)


def with_member(data, end, change):
    """Return the bytes of an archive in which the member whose name has an end is changed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith(end) else old.read(name))
    return stream.getvalue()


def test_pickles_are_refused(program, tmp_path):
    """torch.export.load unpickles a tensor that is marked so, with weights_only=False."""

    def marked(text):
        table = json.loads(text)
        next(iter(table["config"].values()))["use_pickle"] = True
        return json.dumps(table).encode()

    data = with_member(Path(program).read_bytes(), "model_weights_config.json", marked)
    with pytest.raises(UserError, match="p.pt2 has pickled tensors"):
        _program.load("p.pt2", data)


def test_identity():
    here = runtimes.fingerprint(pytorch, {"device": "cpu"})
    assert here == runtimes.fingerprint(pytorch, {}) and here["isa"] and here["version"]
    gpu = {"runtime": "pytorch", "device": "cuda"}
    if not shutil.which("nvidia-smi"):
        assert "needs an NVIDIA GPU" in probe.unreachable(gpu, "build") and probe.identity(gpu) is None
    assert probe.unreachable({"runtime": "pytorch"}, "run") is None
