"""OpenVINO engines: built, loaded from their file in a fresh process, refused where they do not belong."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import engine_graphs
import runtimes
from conftest import ROOT
from core.files import UserError, canonical
from data import preprocess
from devices import probe
from graph import onnx_io, pixels
from measure import timing
from runtimes import _container

openvino = pytest.importorskip("openvino")

RECIPE = {"compute": "fp32", "batches": [1, 4], "threads": 2}
INT8 = {**RECIPE, "compute": "int8", "high_precision": "fp32"}


@pytest.fixture(scope="module")
def runtime():
    return runtimes.load("openvino")


@pytest.fixture(scope="module")
def built(runtime, tmp_path_factory):
    """An FP32 graph, its engine and its description."""
    folder = tmp_path_factory.mktemp("openvino")
    onnx, engine = engine_graphs.network(folder / "net.onnx"), str(folder / "net.engine")
    return onnx, engine, runtime.build(onnx, RECIPE, None, engine)


@pytest.mark.parametrize("count", [1, 3, 4, 6, 9])
def test_any_number_of_images(runtime, built, count):
    """Batches that are built for, smaller ones that are padded, and sums of several."""
    onnx, engine, _ = built
    images = engine_graphs.images(count)
    found = runtime.load(engine, threads=1).run(images)
    assert found.dtype == np.float32 and found.shape == (count, engine_graphs.CLASSES)
    assert np.allclose(found, engine_graphs.expected(images), atol=1e-5)


def test_only_what_is_timed_keeps_the_runtimes_own_waiting(runtime, built, tmp_path, monkeypatch):
    for value, spins in (("1", "1"), ("0", "0")):
        monkeypatch.setenv("LEVIT_SPIN", value)
        model, _ = runtime.load(built[1], threads=1)._request(1)
        assert model.get_property("ENABLE_CPU_PINNING") is (value == "1")
        options = runtimes.load("onnxruntime").load(built[0], threads=2)._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_that_takes_pixels(built, tmp_path, name):
    """It gives the logits of normalized images, for read-only memory too, and refuses normalized ones."""
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    onnx_io.save(pixels.take(onnx_io.load(built[0]), mean, std, preprocess.normalize), tmp_path / "pixels.onnx")
    runtime, engine = runtimes.load(name), str(tmp_path / "pixels.engine")
    described = runtime.build(str(tmp_path / "pixels.onnx"), RECIPE, None, engine)
    session, images = runtime.load(engine, threads=1), np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), "u1")
    images.flags.writeable = False
    normalized = preprocess.normalize(images, mean, std)
    assert session.dtype == np.uint8 and preprocess.for_session(session, images, {}) is images
    assert np.allclose(session.run(images), engine_graphs.expected(normalized), atol=1e-4)
    with pytest.raises(UserError, match="takes images of uint8, got float32"):
        session.run(normalized)
    assert timing.images_for(session, 4).dtype == np.uint8
    assert len(runtime.profile(engine, 4, queries=2)) >= described["layer_count"] // 2


def test_fp32_is_fp32(built):
    """OpenVINO's own default on a processor with BF16 is BF16: the hint must reach the import too."""
    _, engine, described = built
    counts = described["precision_of_layers"]
    assert counts["fp32"] == described["layer_count"] > 5 and counts["bf16"] == counts["int8"] == 0
    assert described["engine_builds"] == 1 and described["build_seconds"] > 0 and described["warnings"] == []


def test_fresh_process(built):
    """Nothing but the file is needed: another process gives the same logits."""
    _, engine, _ = built
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; import runtimes, engine_graphs; "
        "print(runtimes.load('openvino').load(sys.argv[1], 1).run(engine_graphs.images(2)).tobytes().hex())"
    )
    command = [sys.executable, "-c", code, engine, str(ROOT / "workflow_scripts"), str(ROOT / "tests/support")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    here = runtimes.load("openvino").load(engine, 1).run(engine_graphs.images(2))
    assert done.stdout.strip() == here.tobytes().hex()


def test_int8_layers_are_read_back(runtime, tmp_path):
    onnx, engine = engine_graphs.quantized(tmp_path / "q.onnx"), str(tmp_path / "q.engine")
    described = runtime.build(onnx, INT8, None, engine)
    kinds = {(layer["type"], layer["precision"]) for layer in described["layers"]}
    assert ("Convolution", "int8") in kinds and ("FullyConnected", "int8") in kinds
    assert described["precision_of_layers"]["int8"] >= 3 and described["warnings"] == []
    images = engine_graphs.images(4)
    assert np.abs(runtime.load(engine).run(images) - engine_graphs.expected(images)).max() < 0.15


def test_bf16(runtime, built, tmp_path):
    onnx, _, _ = built
    engine = str(tmp_path / "net.engine")
    described = runtime.build(onnx, {**RECIPE, "compute": "bf16"}, None, engine)
    native = "BF16" in described["fingerprint"]["capabilities"]
    assert (described["precision_of_layers"]["bf16"] > 0) == native
    assert bool(described["warnings"]) != native
    images = engine_graphs.images(4)
    error = np.abs(runtime.load(engine).run(images) - engine_graphs.expected(images)).max()
    assert error < 0.2 and (not native or error > 1e-5)


def test_bf16_beside_int8(runtime, tmp_path):
    onnx, engine = engine_graphs.quantized(tmp_path / "q.onnx"), str(tmp_path / "q.engine")
    described = runtime.build(onnx, {**INT8, "high_precision": "bf16"}, None, engine)
    native, counts = "BF16" in described["fingerprint"]["capabilities"], described["precision_of_layers"]
    assert counts["int8"] >= 3 and (counts["bf16"] > 0) == native == (not described["warnings"])
    images = engine_graphs.images(4)
    assert np.abs(runtime.load(engine).run(images) - engine_graphs.expected(images)).max() < 0.2


def test_bf16_is_not_emulated(runtime, built, tmp_path, monkeypatch):
    """OpenVINO takes the hint on any processor with AVX-512 and rounds FP32 to it: slower than FP32."""
    here = runtime.fingerprint()
    less = {**here, "capabilities": [name for name in here["capabilities"] if name != "BF16"]}
    monkeypatch.setattr(runtime, "fingerprint", lambda: less)
    described = runtime.build(built[0], {**RECIPE, "compute": "bf16"}, None, str(tmp_path / "e"))
    counts = described["precision_of_layers"]
    assert counts["bf16"] == 0 and counts["fp32"] == described["layer_count"]
    assert described["warnings"] == ["the recipe asks for bf16, and no layer computes in it"]


def test_asked_precision_that_is_not_there_is_told(runtime, built, tmp_path):
    described = runtime.build(built[0], INT8, None, str(tmp_path / "e"))
    assert described["warnings"] == ["the recipe asks for int8, and no layer computes in it"]


def test_profile_has_times(runtime, built):
    layers = runtime.profile(built[1], 4)
    assert len(layers) > 5 and all(layer["ms"] >= 0 for layer in layers) and sum(layer["ms"] for layer in layers) > 0


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.98])
def test_truncated_engine(runtime, built, tmp_path, kept):
    data = Path(built[1]).read_bytes()
    broken = tmp_path / "broken.engine"
    broken.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    with pytest.raises(UserError, match="broken.engine is not a whole engine file"):
        runtime.load(str(broken))


def test_damaged_engine(runtime, built, tmp_path):
    data = bytearray(Path(built[1]).read_bytes())
    data[len(data) // 2] ^= 1
    broken = tmp_path / "broken.engine"
    broken.write_bytes(bytes(data))
    with pytest.raises(UserError, match="not a whole engine file"):
        runtime.load(str(broken)).run(engine_graphs.images(5))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"version": "2024.1.0"}, "was built for version 2024.1.0, and here it is "),
        ({"architecture": "riscv64"}, "was built for architecture riscv64"),
        ({"isa": ["amx_int2"]}, "was built for isa amx_int2, and here it is "),
        ({"runtime": "onnxruntime"}, "is an engine of onnxruntime"),
        ({"format": 9}, "format 9"),
    ],
)
def test_engine_from_elsewhere(runtime, built, tmp_path, change, message):
    header, parts = _container.read(built[1], probe.facts("openvino"))
    other = str(tmp_path / "other.engine")
    _container.write(other, {**header, **change}, parts)
    with pytest.raises(UserError, match=message):
        runtime.load(other)


def test_blob_that_openvino_refuses(runtime, built, tmp_path):
    header, parts = _container.read(built[1], probe.facts("openvino"))
    other = str(tmp_path / "other.engine")
    _container.write(other, header, {name: blob[:100] for name, blob in parts.items()})
    with pytest.raises(UserError, match="OpenVINO cannot load its batch 4"):
        runtime.load(other)


def test_bad_requests(runtime, built, tmp_path):
    onnx, engine, _ = built
    session = runtime.load(engine)
    with pytest.raises(UserError, match=r"takes images of \[3, 16, 16\], got \[1, 3, 8, 8\]"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(UserError, match="cannot compute in fp16 here: one of bf16, fp32"):
        runtime.build(onnx, {**RECIPE, "compute": "fp16"}, None, str(tmp_path / "e"))
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(UserError, match="text.onnx: OpenVINO cannot compile it at batch 1"):
        runtime.build(str(tmp_path / "text.onnx"), RECIPE, None, str(tmp_path / "e"))
    fixed = engine_graphs.network(tmp_path / "fixed.onnx", batch=2)
    with pytest.raises(UserError, match="fixed.onnx"):
        runtime.build(fixed, RECIPE, None, str(tmp_path / "e"))
    with pytest.raises(UserError, match="threads: -1"):
        runtime.load(engine, threads=-1)


def test_header_is_readable_by_hand(built):
    with zipfile.ZipFile(built[1]) as archive:
        text = archive.read("engine.json").decode()
        assert sorted(archive.namelist()) == ["batch1.blob", "batch4.blob", "engine.json"]
    assert '"runtime":"openvino"' in text and canonical({"batches": [1, 4]})[1:-1] in text
