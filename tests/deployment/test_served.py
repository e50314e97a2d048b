"""A LeViT engine served by a real Triton Inference Server, which `make check` installs in .venv-triton."""

import itertools
import json
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import bundles
import forks
import triton_models
from conftest import ROOT
from deployment import archive
from model import zoo
from workflow import Workflow

PYTHON = ROOT / ".venv-triton/bin/python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is not there: `make check` makes it"),
]
NAME, PIXELS, AUTO = "LeViT-tiny.fp32.cpu", "LeViT-tiny.fp32.pixels", "LeViT-tiny.auto.cpu"
PARSE = """import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
texts = json.load(sys.stdin)
parsed = {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}
as_dict = lambda message: json_format.MessageToDict(message, preserving_proto_field_name=True)
print(json.dumps({name: as_dict(message) for name, message in parsed.items()}))
"""
LABELS = """import sys
import numpy as np
import tritonclient.grpc as client
image = np.array([[open(sys.argv[3], "rb").read()]], np.object_)
given = client.InferInput("image", image.shape, "BYTES")
given.set_data_from_numpy(image)
wanted = client.InferRequestedOutput("logits", class_count=2)
answer = client.InferenceServerClient(sys.argv[1]).infer(sys.argv[2], [given], outputs=[wanted])
print(*(line.decode() for line in answer.as_numpy("logits")[0]), sep="\\n")
"""
STAND_IN = """import numpy as np
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        (request,) = requests
        images = triton.get_input_tensor_by_name(request, "input_0").as_numpy()
        if len(images) not in (1, 4):
            return [triton.InferenceResponse([], triton.TritonError(f"no profile for batch {len(images)}"))]
        means = images.mean((1, 2, 3))[:, None] * np.ones(10, np.float32)
        return [triton.InferenceResponse([triton.Tensor("output_0", means.astype(np.float32))])]
"""


def quick(config):
    """Two targets on this machine, whose engines take images and pixels, and a choice; weights at random."""
    config["datasets"]["digits"]["weights"] = "w.pth"
    config["precisions"]["auto"]["choose"] = ["fp32", "bf16"]
    config["targets"]["cpu"].update(warmup_ms=20, duration_ms=100, iterations=10, batches=[1, 4])
    config["targets"]["pixels"] = {**config["targets"]["cpu"], "input": "uint8"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The repositories that the workflow makes of three results, unpacked; returns {name: folder}."""
    workflow = Workflow.fresh(tmp_path_factory.mktemp("served") / "run")
    workflow.config(quick)
    torch.manual_seed(0)
    small = {"timm": "levit_128s", "size": 64}
    small["options"] = {"embed_dim": [32, 48, 64], "num_heads": [2, 3, 4], "depth": [1, 1, 1]}
    weights = zoo.create(small, 10).state_dict()
    (head,) = (value for name, value in weights.items() if name.endswith("head.linear.weight"))
    head.mul_(1000)  # without training, all images are much alike
    torch.save(weights, workflow.path("w.pth"))
    paths = [f"results/digits/triton/{name}.tar.gz" for name in (NAME, PIXELS, AUTO)]
    status, output = workflow.run("--quiet", "--", *paths, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    return {
        name: bundles.unpack(workflow.path(path), workflow.path("unpacked"))
        for name, path in zip((NAME, PIXELS, AUTO), paths)
    }


def fixed(made):
    """Write the models of an engine of fixed batch sizes below those of another repository, with a stand-in for it."""
    files = {path.relative_to(made).as_posix(): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    bundle = {"engine.json": json.dumps({"input": "input_0", "output": "output_0", "dtype": "float32"}).encode()}
    engine = f"models/{NAME}.engine/1"
    bundle.update({name: files[f"{engine}/{name}"] for name in ("model.engine", "preprocess.json", "classes.txt")})
    bundle.update({name: files[name] for name in ("result.json", "requirements.txt")}, **{"README.md": b""})
    shape = {"shape": [-1, 3, 64, 64], "batches": [1, 4]}
    models = triton_models.write(
        triton_models.made(bundle, "tensorrt", engine=shape, dynamic_batch=False), made.parent / "fixed"
    )
    plan = models / f"{triton_models.NAME}.plan"
    text = (plan / "config.pbtxt").read_text().replace('platform: "tensorrt_plan"', 'backend: "python"')
    (plan / "config.pbtxt").write_text(text.replace("KIND_GPU", "KIND_CPU").replace('profile: [ "0", "1" ]', ""))
    (plan / "1/model.py").write_text(STAND_IN)
    return models


def free_ports(count):
    """Return ports that nobody listens on."""
    holders = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


@pytest.fixture(scope="module")
def server(made):
    """A running server of all repositories and one of fixed batches; returns (folder, address, address of gRPC)."""
    others = [made[PIXELS] / "models", made[AUTO] / "models", fixed(made[NAME])]
    http, grpc = free_ports(2)
    given = [f"--model-repository={folder}" for folder in others]
    given += [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false"]
    with open(made[NAME] / "server.log", "w") as log:
        process = subprocess.Popen([PYTHON, made[NAME] / "serve.py", *given], stdout=log, stderr=subprocess.STDOUT)
    try:
        status, text, problems = client(made[NAME], f"http://localhost:{http}", "ready")
        assert status == 0, problems + (made[NAME] / "server.log").read_text()
        yield made[NAME], f"http://localhost:{http}", f"localhost:{grpc}"
    finally:
        process.terminate()
        process.wait(60)


def client(folder, url, *arguments):
    """Run a repository's client.py by an interpreter without packages; return (status, stdout, stderr)."""
    command = [sys.executable, "-I", "-S", folder / "client.py", "--url", url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def ask(url, model, header, data=b""):
    """Return (status, answer) of a request by hand."""
    text = json.dumps(header).encode()
    request = urllib.request.Request(f"{url}/v2/models/{model}/infer", text + data)
    request.add_header("Inference-Header-Content-Length", str(len(text)))
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def pixels_of(images, shape=None):
    images = np.ascontiguousarray(images)
    sent = {"name": "pixels", "shape": list(shape or images.shape), "datatype": "UINT8"}
    sent["parameters"] = {"binary_data_size": images.nbytes}
    return {"inputs": [sent], "outputs": [{"name": "logits"}]}, images.tobytes()


@pytest.mark.parametrize("name", [NAME, PIXELS, AUTO])
def test_samples_have_the_recorded_logits(server, made, name):
    status, text, problems = client(made[name], server[1], "selftest", "--model", name)
    assert (status, problems) == (0, "") and text.endswith("selftest passed\n") and text.count(": within ") == 3


def test_images_folders_and_batches(server):
    folder, url, _ = server
    recorded = json.loads((folder / "samples/samples.json").read_text())["samples"]
    for batch in ("1", "2", "16"):
        status, text, problems = client(folder, url, "--model", NAME, "--json", "--batch", batch, folder / "samples")
        found = [json.loads(line)["top"] for line in text.splitlines()]
        assert (status, problems, len(found)) == (0, "", 3)
        for top, sample in zip(found, recorded):
            assert top[0]["index"] == int(np.argmax(sample["logits"]))
            assert top[0]["logit"] == pytest.approx(max(sample["logits"]), abs=2e-3)
            assert top[0]["class"] == str(top[0]["index"]), "digits are called by their names"
    status, text, _ = client(folder, url, "--model", NAME, "--benchmark", "--clients", "2", "--seconds", "0.2")
    assert status == 0 and " images/s from 2 clients, 1 images a query: median " in text


def test_what_the_client_cannot_do_is_one_line(server, tmp_path):
    folder, url, _ = server
    served = f"{AUTO}, {NAME}, {PIXELS}, M.fp32.here"
    for arguments, problem in (
        ([folder / "samples"], f"{url} serves {served}: name one with --model"),
        (["--model", "other", "x"], "Request for unknown model: 'other' is not found"),
        (["--model", NAME, "nowhere.jpg"], "nowhere.jpg: no such file or folder"),
    ):
        assert client(folder, url, *arguments) == (1, "", f"error: {problem}\n")
    status, _, problems = client(folder, "http://localhost:1", "ready", "--wait", "0")
    assert status == 1 and problems.startswith("error: http://localhost:1 is not ready after 0 s (")
    shutil.copy(folder / "client.py", tmp_path)
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    status, _, problems = client(tmp_path, url, "--model", NAME, folder / "samples/0.png")
    assert (status, problems.count("\n")) == (1, 1) and "classes.txt has 2 classes, and the model 10" in problems


def test_what_is_no_image_fails_its_own_request(server, tmp_path):
    """While others are answered, by the same model at the same time."""
    folder, url, _ = server
    (tmp_path / "none.jpg").write_text("no image")
    image = folder / "samples/0.png"

    def classify(path):
        return client(folder, url, "--model", NAME, "--top", "1", path)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(classify, [image, tmp_path / "none.jpg"] * 4))
    good, bad = answers[::2], answers[1::2]
    assert {status for status, _, _ in good} == {0} and len({text for _, text, _ in good}) == 1
    for status, text, problems in bad:
        assert (status, text, problems.count("\n")) == (1, "", 1)
        assert "none.jpg: in ensemble " in problems and "image 0 cannot be read (" in problems
    status, text, problems = client(folder, url, "--model", NAME, image, tmp_path / "none.jpg", image)
    assert status == 1 and text.count(f"{image}: ") == 2 and problems.count("\n") == 1, "the others of its batch pass"


@pytest.mark.parametrize(
    "images, shape, problem",
    [
        (np.zeros((1, 32, 32, 3), np.uint8), None, "unexpected shape for input 'pixels'"),
        (np.zeros((17, 64, 64, 3), np.uint8), None, "batch-size must be <= 16"),
        (np.zeros((1, 64, 64, 3), np.uint8), [1, 64, 64], "unexpected"),
        (np.zeros((1, 64, 64), np.uint8), [1, 64, 64, 3], "byte size"),
    ],
)
def test_a_request_of_another_shape_is_refused_in_one_line(server, images, shape, problem):
    status, answer = ask(server[1], f"{NAME}.engine", *pixels_of(images, shape))
    assert status == 400 and problem in answer["error"] and "\n" not in answer["error"].strip()
    status, answer = ask(server[1], f"{NAME}.engine", *pixels_of(np.zeros((3, 64, 64, 3), np.uint8)))
    assert status == 200 and answer["outputs"][0]["shape"] == [3, 10]


def test_eight_clients_at_once_get_their_own_logits(server):
    folder, url, _ = server
    images = np.stack([np.asarray(bundles.picture(64, 64, seed)) for seed in range(8)])

    def logits(number):
        status, answer = ask(url, f"{NAME}.engine", *pixels_of(images[number][None]))
        assert status == 200, answer
        return answer["outputs"][0]["data"]

    alone = [logits(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(logits, [*range(8)] * 10))
    apart = min(np.abs(np.subtract(one, other)).max() for one, other in itertools.combinations(alone, 2))
    assert apart > 1e-3 and np.abs(np.subtract(together, alone * 10)).max() < apart / 10


def test_labels_by_tritons_own_client(server):
    """Over gRPC, by the classification extension."""
    folder, _, grpc = server
    image = folder / "samples/1.png"
    done = subprocess.run([PYTHON, "-c", LABELS, grpc, NAME, image], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sample = json.loads((folder / "samples/samples.json").read_text())["samples"][1]
    for line, index in zip(done.stdout.splitlines(), np.argsort(sample["logits"])[::-1]):
        logit, place, label = line.split(":")
        assert (int(place), label) == (index, str(index))
        assert float(logit) == pytest.approx(sample["logits"][index], abs=1e-3)


def test_an_engine_of_fixed_batches_never_sees_another(server):
    """The model in Python before it splits and pads; a stand-in has the place of TensorRT."""
    _, url, _ = server
    name, images = triton_models.NAME, np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3)).astype(np.uint8)
    status, answer = ask(url, f"{name}.engine", *pixels_of(images))
    assert status == 200, answer
    found = np.reshape(answer["outputs"][0]["data"], (6, 10))[:, 0]
    means, deviations = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert np.allclose(found, ((images / 255 - means) / deviations).mean((1, 2, 3)), atol=1e-4)
    sent = {"name": "input_0", "shape": [2, 3, 64, 64], "datatype": "FP32", "data": [0.0] * (2 * 3 * 64 * 64)}
    status, answer = ask(url, f"{name}.plan", {"inputs": [sent]})
    assert status >= 400 and "no profile for batch 2" in answer["error"], "what TensorRT would say"


def test_a_damaged_engine_ends_the_server_with_its_name(made, tmp_path):
    folder = shutil.copytree(made[NAME], tmp_path / "damaged")
    engine = folder / f"models/{NAME}.engine/1/model.engine"
    engine.write_bytes(engine.read_bytes()[:1000])
    http, grpc = free_ports(2)
    given = [f"--http-port={http}", f"--grpc-port={grpc}", "--allow-metrics=false"]
    done = subprocess.run([PYTHON, folder / "serve.py", *given], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and f"{engine} is not a whole engine file" in done.stdout + done.stderr


def test_configurations_are_tritons(made, tmp_path):
    """By tritonclient's protobuf, which knows every field: of this engine and of those of other runtimes."""
    files = archive.read(bundles.packed(tmp_path, "onnxruntime"))
    shape = {"shape": [-1, 3, 16, 16], "batches": [1, 64]}
    kinds = {
        "onnx": triton_models.made(files, "onnxruntime", b"graph"),
        "dynamic": triton_models.made(files, "tensorrt", engine=shape, batches=[1, 64], dynamic_batch=True),
        "fixed": triton_models.made(files, "tensorrt", dla=True, engine=shape, dynamic_batch=False),
        "any": triton_models.made(files, "pytorch", engine={"batches": []}),
    }
    texts = {
        f"{kind}/{path}": data.decode()
        for kind, listed in kinds.items()
        for path, data in listed.items()
        if path.endswith("config.pbtxt")
    }
    texts.update({f"served/{path.parent.name}": path.read_text() for path in made[NAME].glob("models/*/config.pbtxt")})
    done = subprocess.run([PYTHON, "-c", PARSE], input=json.dumps(texts), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parsed = json.loads(done.stdout)
    assert len(parsed) == 16
    assert parsed[f"served/{NAME}.engine"]["dynamic_batching"] == {"preferred_batch_size": [1, 4]}
    plan = parsed["fixed/models/M.fp32.here.plan/config.pbtxt"]
    assert plan["instance_group"][0]["profile"] == ["0", "1"] and "max_batch_size" not in plan, "0 is the default"
    assert len(plan["instance_group"][0]["secondary_devices"]) == 1, "KIND_NVDLA and 0 are the defaults"
    steps = parsed[f"served/{NAME}"]["ensemble_scheduling"]["step"]
    assert [step["model_name"] for step in steps] == [f"{NAME}.preprocess", f"{NAME}.engine"]
