"""A model repository for Triton Inference Server: its configurations, and its models in Python without a server."""

import json
import subprocess

import numpy as np
import pytest

import bundles
import triton_models
from core.files import sha256_file
from data import preprocess
from deployment import archive, model_config, repository, triton_client
from triton_models import made, write

NAME = triton_models.NAME


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return bundles.packed(tmp_path_factory.mktemp("packed"), "onnxruntime")


@pytest.fixture(scope="module")
def files(packed):
    return archive.read(packed)


def config(made, model):
    return made[f"models/{NAME}{model}/config.pbtxt"].decode()


def models(made):
    return sorted({path.split("/")[1].replace(NAME, "") for path in made if path.startswith("models/")})


def test_text_of_a_message():
    message = {"name": 'a "b"', "kind": model_config.ON_GPU, "dims": [-1, 3], "step": [{"n": 1}, {"n": 2}], "empty": {}}
    lines = ['name: "a \\"b\\""', "kind: KIND_GPU", "dims: [ -1, 3 ]", "step {\n  n: 1\n}\nstep {\n  n: 2\n}"]
    assert model_config.text(message) == "\n".join([*lines, "empty {\n}\n"])


def test_a_repository_of_onnx_runtime(packed, tmp_path):
    """By the command: the graph is what Triton loads; what is packed is whole; equal inputs give equal bytes."""
    graph, hashes = packed.parent / "net.onnx", []
    status, text, path = bundles.repository(tmp_path, packed, graphs=packed.parent / "index.json")
    assert status == 1 and "M.fp32.here.tar.gz is of none of the graphs" in text and not path.exists()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        status, text, path = bundles.repository(folder, packed, graphs=graph)
        assert status == 0, text
        hashes.append(sha256_file(path))
    assert hashes[0] == hashes[1]
    root = bundles.unpack(path, tmp_path / "a folder")
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=root).returncode == 0
    assert (root / f"models/{NAME}.engine/1/model.onnx").read_bytes() == graph.read_bytes()
    requirements = (root / "requirements.txt").read_text()
    assert requirements.startswith("pillow==") and "onnx" not in requirements
    assert "$" not in (root / "README.md").read_text().replace('"$PWD', "")
    status, text, path = bundles.repository(tmp_path, packed.parent / "index.json")
    assert status == 1 and "index.json is not a whole bundle" in text and text.count("error: ") == 1


def test_models_by_onnx_runtime(files):
    repo = made(files, "onnxruntime", b"graph", threads=3)
    assert models(repo) == ["", ".engine", ".preprocess"]
    engine = config(repo, ".engine")
    assert 'backend: "onnxruntime"\nmax_batch_size: 16\n' in engine and 'string_value: "3"' in engine
    assert 'name: "input_0"\n  data_type: TYPE_FP32\n  dims: [ 3, 16, 16 ]' in engine
    assert "preferred_batch_size: [ 4 ]" in engine and "KIND_CPU" in engine
    assert 'name: "input_0"\n  data_type: TYPE_FP32\n  dims: [ 3, 16, 16 ]' in config(repo, ".preprocess")
    whole = config(repo, "")
    assert 'platform: "ensemble"' in whole and 'key: "output_0"\n      value: "logits"' in whole
    assert repo[f"models/{NAME}/labels.txt"] == repo["classes.txt"] and f"models/{NAME}/1/.keep" in repo


def test_models_by_tensorrt_with_dynamic_batches(files):
    shape = {"shape": [-1, 3, 16, 16], "batches": [1, 64]}
    repo = made({**files, "plugin.so": b"plugin"}, "tensorrt", engine=shape, batches=[1, 64], dynamic_batch=True)
    assert models(repo) == ["", ".engine", ".preprocess"]
    engine = config(repo, ".engine")
    assert 'platform: "tensorrt_plan"\nmax_batch_size: 64\n' in engine and "dims: [ 3, 16, 16 ]" in engine
    assert 'kind: KIND_GPU\n  count: 1\n  profile: [ "0", "1" ]' in engine and "preferred_batch_size: [ 64 ]" in engine
    assert repo[f"models/{NAME}.engine/1/model.plan"] == files["model.engine"]
    readme = repo["README.md"].decode()
    assert f"plugins=/repository/models/{NAME}.engine/1/plugin.so" in readme and "--gpus all -p" in readme
    pixels = {"shape": [-1, 16, 16, 3], "batches": [1, 64], "dtype": "uint8", "input": "pixels"}
    repo = made(files, "tensorrt", engine=pixels, batches=[1, 64], dynamic_batch=True)
    for model in (".engine", ".preprocess"):
        assert 'name: "pixels"\n  data_type: TYPE_UINT8\n  dims: [ 16, 16, 3 ]' in config(repo, model)


def test_models_by_tensorrt_with_fixed_batches(files):
    """Triton does not pad: a model in Python stands before the engine."""
    shape = {"shape": [-1, 3, 16, 16], "batches": [1, 64]}
    repo = made(files, "tensorrt", engine=shape, batches=[1, 64], dynamic_batch=False)
    assert models(repo) == ["", ".engine", ".plan", ".preprocess"]
    plan = config(repo, ".plan")
    assert "max_batch_size: 0\n" in plan and "dims: [ -1, 3, 16, 16 ]" in plan and "dims: [ -1, 10 ]" in plan
    assert "dynamic_batching" not in plan and 'profile: [ "0", "1" ]' in plan
    engine = config(repo, ".engine")
    assert 'backend: "python"\nmax_batch_size: 64\n' in engine and "preferred_batch_size: [ 64 ]" in engine
    assert f"models/{NAME}.engine/1/model.engine" not in repo and f"models/{NAME}.plan/1/model.plan" in repo
    assert f"models/{NAME}.engine/1/levit/runtimes/tensorrt.py" not in repo, "the container has no TensorRT for Python"
    one = made(files, "tensorrt", dla=True, engine={"shape": [1, 3, 16, 16], "batches": [1]}, dynamic_batch=False)
    assert "dims: [ 1, 3, 16, 16 ]" in config(one, ".plan") and "kind: KIND_NVDLA" in config(one, ".plan")
    assert "dynamic_batching" not in config(one, ".engine") and "max_batch_size: 16\n" in config(one, ".engine")


def test_models_of_other_runtimes_run_the_bundles_client(files):
    repo = made(files, "openvino", engine={"batches": [1, 4]})
    engine = config(repo, ".engine")
    assert 'backend: "python"\nmax_batch_size: 16\n' in engine and "preferred_batch_size: [ 1, 4 ]" in engine
    assert 'name: "pixels"\n  data_type: TYPE_UINT8\n  dims: [ 16, 16, 3 ]' in engine
    assert repo[f"models/{NAME}.engine/1/model.engine"] == files["model.engine"]
    assert "preferred_batch_size: [ 4 ]" in config(made(files, "pytorch", engine={"batches": []}), ".engine")


def test_preprocessing_fails_the_request_of_what_is_no_image(files, tmp_path, monkeypatch):
    folder = write(made(files, "openvino", engine={"batches": [1, 4]}), tmp_path) / f"{NAME}.preprocess"
    model = triton_models.load(folder, ("pixels", "TYPE_UINT8"), triton_models.stand_in(), monkeypatch)
    image = files["samples/0.jpg"]
    requests = [
        [triton_models.Tensor("image", np.array([[data] for data in group], object))]
        for group in ([image], [image, b"none"], [image, image])
    ]
    good, bad, two = model.execute(requests)
    assert good.tensors[0].array.shape == (1, 16, 16, 3) and two.tensors[0].array.shape == (2, 16, 16, 3)
    assert bad.error().message().startswith("image 1 cannot be read (") and "\n" not in bad.error().message()
    model.dtype = np.float32
    (normalized,) = model.execute(requests[:1])
    assert normalized.tensors[0].array.shape == (1, 3, 16, 16) and normalized.tensors[0].array.dtype == np.float32


def test_the_bundles_engine_in_python(packed, files, tmp_path, monkeypatch):
    """Run by the bundle's own runtime; requests are one query."""
    monkeypatch.setitem(repository.SERVING, "onnxruntime", repository._by_client)
    folder = write(made(files, "onnxruntime"), tmp_path) / f"{NAME}.engine"
    model = triton_models.load(folder, ("logits", "TYPE_FP32"), triton_models.stand_in(), monkeypatch)
    recorded = json.loads(files["samples/samples.json"])["samples"]
    pixels = [model.model.pixels(files[f"samples/{one['file']}"])[None] for one in recorded]
    requests = [[triton_models.Tensor("pixels", one)] for one in (pixels[0], np.concatenate(pixels))]
    one, three = (response.tensors[0].array for response in model.execute(requests))
    assert one.shape == (1, 10) and np.allclose(three, [sample["logits"] for sample in recorded], atol=1e-4)


def test_an_engine_of_fixed_batches_is_asked_for_these_alone(files, tmp_path, monkeypatch):
    shape = {"shape": [-1, 3, 16, 16], "batches": [1, 4]}
    folder = write(made(files, "tensorrt", engine=shape, dynamic_batch=False), tmp_path) / f"{NAME}.engine"
    asked = []

    def plan(images):
        asked.append(len(images))
        if len(images) == 4 and images[-1].max() > 1e3:
            raise ValueError("out of memory")
        return np.stack([images.mean((1, 2, 3))] * 10, 1)

    utils = triton_models.stand_in({f"{NAME}.plan": plan})
    model = triton_models.load(folder, ("logits", "TYPE_FP32"), utils, monkeypatch)
    for count, queries in ((1, [1]), (2, [4]), (4, [4]), (6, [4, 4]), (5, [4, 1])):
        pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3)).astype(np.uint8)
        (response,) = model.execute([[triton_models.Tensor("pixels", pixels)]])
        images = preprocess.normalize(pixels, bundles.GEOMETRY["mean"], bundles.GEOMETRY["std"])
        assert asked == queries and np.allclose(response.tensors[0].array[:, 0], images.mean((1, 2, 3)), atol=1e-5)
        asked.clear()
    utils.InferenceRequest.exec = lambda self: utils.InferenceResponse([], utils.TritonError("out of memory"))
    responses = model.execute([[triton_models.Tensor("pixels", pixels)]] * 2)
    assert [response.error().message() for response in responses] == ["out of memory"] * 2


@pytest.mark.parametrize(
    ("logits", "verdict"),
    [([1.0, 2.0], "within"), ([1.0, 2.2], "NOT within"), ([1.0, float("nan")], "NOT within"), ([1.0], "NOT within")],
)
def test_the_clients_selftest(tmp_path, monkeypatch, capsys, logits, verdict):
    class Server:
        def logits(self, images):
            return [logits]

    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/0.png").write_bytes(b"an image")
    recorded = {"tolerance": 0.1, "samples": [{"file": "0.png", "logits": [1.0, 2.0]}]}
    (tmp_path / "samples/samples.json").write_text(json.dumps(recorded))
    monkeypatch.setattr(triton_client, "HERE", tmp_path)
    assert triton_client.selftest(Server()) == (verdict != "within")
    assert f": {verdict} 0.1" in capsys.readouterr().out


def test_what_the_client_refuses_without_a_server(tmp_path):
    with pytest.raises(triton_client.Problem, match="has no images"):
        list(triton_client.files([str(tmp_path)]))
    with pytest.raises(triton_client.Problem, match="logits are not finite"):
        triton_client.top([1.0, float("nan")], ["a", "b"], 1)


@pytest.mark.parametrize("flag, value", [("--top", "0"), ("--batch", "-2"), ("--clients", "0"), ("--seconds", "inf")])
def test_a_client_refuses_numbers_that_are_not_positive(capsys, flag, value):
    with pytest.raises(SystemExit):
        triton_client.parser().parse_args(["photo.jpg", flag, value])
    assert f"argument {flag}: {value} is not a positive number" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["nowhere", "http://[bad", "http://localhost:1"])
def test_what_is_no_server(url):
    with pytest.raises(triton_client.Problem, match="does not answer as a Triton server"):
        triton_client.Server(url, None)
    with pytest.raises(triton_client.Problem, match="is not ready after 0 s"):
        triton_client.wait(url, 0)
