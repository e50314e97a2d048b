"""Bundles run by themselves: unpacked in an empty folder, by an interpreter that sees neither project nor torch."""

import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import jsonschema
import numpy as np
import pytest
import yaml

import bundles
import pick_samples
import runtimes
from conftest import ROOT
from core.files import UserError, sha256_file
from deployment import archive, compatibility, image_sources, stream
from deployment import classify as client

HERE = {"runtime": "openvino", "version": "1", "architecture": "x86_64", "isa": ["avx2", "fma"], "device": "A"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A bundle for ONNX Runtime, whose modules run in this process as well."""
    return bundles.packed(tmp_path_factory.mktemp("packed"), "onnxruntime")


@pytest.fixture
def bundle(packed, tmp_path):
    return bundles.unpack(packed, tmp_path / "a folder")


@pytest.fixture
def classify(bundle, capsys, monkeypatch):
    """Return a function that runs the client's command line in this process; it returns (status, stdout, stderr)."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            client.main([str(argument) for argument in arguments], str(bundle))
        code, (out, err) = ended.value.code, capsys.readouterr()
        return (code, out, err) if isinstance(code, int) else (1, out, f"{err}{code}\n")

    return run


def without_sum(bundle, name):
    """Take the line of a file that the user changed out of SHA256SUMS."""
    sums = (bundle / "SHA256SUMS").read_text().splitlines(keepends=True)
    (bundle / "SHA256SUMS").write_text("".join(line for line in sums if not line.endswith(f"  {name}\n")))


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_bundle_runs_by_itself(runtime, tmp_path):
    """By an interpreter that sees neither the project nor torch."""
    bundles.inputs(tmp_path, runtime)
    status, text, path = bundles.pack(tmp_path, runtime)
    assert status == 0, text
    bundle = bundles.unpack(path, tmp_path / "a folder")
    status, text, problems = bundles.alone(bundle, "selftest")
    assert (status, problems) == (0, "") and text.endswith("selftest passed\n") and text.count(": within ") == 3
    status, text, problems = bundles.alone(bundle, "--logits", bundle / "samples")
    assert (status, problems) == (0, "") and len(text.splitlines()) == 3


def test_equal_inputs_give_equal_bytes(packed):
    (packed.parent / "again").mkdir()
    status, text, path = bundles.pack(packed.parent, "onnxruntime", "again/M.fp32.here")
    assert status == 0 and sha256_file(path) == sha256_file(packed), text


def test_what_is_in_it(bundle):
    names = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    listed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    assert names == listed | {"SHA256SUMS"}
    assert {"README.md", "classify.py", "model.engine", "preprocess.json", "classes.txt", "result.json"} < names
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=bundle).returncode == 0
    assert (bundle / "classes.txt").read_text().splitlines() == bundles.CLASSES
    preprocessing = json.loads((bundle / "preprocess.json").read_text())
    assert preprocessing == {key: bundles.GEOMETRY[key] for key in preprocessing} and len(preprocessing) == 6
    page = (bundle / "README.md").read_text()
    assert "top-1 90.00 % of 400 images of `val` (95 % confidence: 86.67 to 92.57)" in page and "| MIT |" in page
    assert "$" not in page


def test_its_json_is_that_of_its_schema(bundle):
    schema = yaml.safe_load((ROOT / "rules/schemas/bundle.schema.yaml").read_text())
    files = {name: json.loads((bundle / name).read_text()) for name in schema["required"]}
    jsonschema.validate(files, schema)
    assert schema["$id"] == files["samples/samples.json"]["schema"]


def test_its_modules_import_nothing_of_the_project_by_its_name_there(bundle):
    folders = "|".join(path.name for path in (ROOT / "workflow_scripts").iterdir() if path.is_dir())
    for path in [bundle / "classify.py", *(bundle / "levit").rglob("*.py")]:
        assert not re.search(rf"^\s*(from|import) ({folders})\b", path.read_text(), re.MULTILINE), path


def test_the_modules_of_every_runtime_import_by_themselves(tmp_path):
    for name in runtimes.names():
        for path, content in archive.client(name).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(content)
    assert not (tmp_path / "levit/core/command.py").exists(), "what builds and measures stays at home"
    names = [f"levit.runtimes.{name}" for name in runtimes.names()] + ["levit.deployment.stream", "classify"]
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {', '.join(names)}; "
    program += "print(sorted({'core', 'data', 'runtimes', 'torch', 'tqdm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert {name for name in ("openvino", "tensorrt", "onnxruntime") if archive.cpp_client(name)} == {
        "openvino",
        "tensorrt",
    }


def test_another_logit_fails_the_selftest(bundle, classify):
    path = bundle / "samples/samples.json"
    recorded = json.loads(path.read_text())
    recorded["samples"][1]["logits"][0] += 2 * recorded["tolerance"]
    path.write_text(json.dumps(recorded))
    without_sum(bundle, "samples/samples.json")
    status, text, _ = classify("selftest")
    assert status == 1 and text.count("NOT within") == 1 and text.endswith("selftest failed\n")


def test_images_and_folders(bundle, classify):
    status, text, problems = classify(bundle / "samples", bundle / "samples/1.png", "--top", "2")
    assert (status, problems) == (0, "") and len(text.splitlines()) == 4
    assert re.match(r"\S.*/samples/0.jpg: class \d \d+\.\d%, class \d \d+\.\d%$", text.splitlines()[0])
    recorded = json.loads((bundle / "samples/samples.json").read_text())["samples"]
    for batch in ("1", "3", "16"):
        status, text, _ = classify(bundle / "samples", "--logits", "--batch", batch)
        found = [json.loads(line) for line in text.splitlines()]
        assert [one["top"][0]["index"] for one in found] == [int(np.argmax(one["logits"])) for one in recorded]
        for one, other in zip(found, recorded):
            assert np.allclose(one["logits"], other["logits"], atol=1e-4)


def test_standard_input(bundle, classify):
    jpeg, png = ((bundle / f"samples/{name}").read_bytes() for name in ("0.jpg", "1.png"))
    status, text, _ = classify("-", "--json", stdin=png)
    assert status == 0 and json.loads(text)["image"] == "stdin"
    status, text, _ = classify("-", "--json", stdin=jpeg + jpeg)
    assert status == 0 and [json.loads(line)["image"] for line in text.splitlines()] == ["stdin#0", "stdin#1"]
    assert classify("-") == (1, "", "error: stdin is empty\n")


@pytest.mark.slow
def test_an_environment_of_its_requirements_alone(tmp_path):
    """Without any runtime, one line says what to install."""
    bundle = bundles.unpack(bundles.packed(tmp_path, "openvino"), tmp_path / "a folder")
    environment, python = tmp_path / "environment", tmp_path / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)

    def run(*arguments):
        done = subprocess.run(
            [python, *arguments], cwd=bundle, env={"PATH": "/usr/bin"}, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    status, _, problems = run("classify.py", "selftest")
    assert status == 1 and problems.startswith("error: No module named 'numpy': python3 -m pip install -r ")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    install = [python, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"]
    done = subprocess.run(install, cwd=bundle, env=variables, capture_output=True, text=True)
    if done.returncode and "No matching distribution" not in done.stderr:
        pytest.skip(f"no package index in reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert run("classify.py", "selftest")[::2] == (0, "")
    status, text, problems = run("classify.py", "--json", "samples")
    assert (status, problems) == (0, "") and len(text.splitlines()) == 3
    assert run("-c", "import torch")[0] == run("-c", "import snakemake")[0] == 1


class Camera(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path not in ("/still?token=secret", "/stream"):
            return self.send_error(404)
        still = self.path != "/stream"
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg" if still else "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for _ in range(1 if still else 3):
            self.wfile.write(b"" if still else b"--frame\r\nContent-Type: image/jpeg\r\n\r\n")
            self.wfile.write(self.server.jpeg + (b"" if still else b"\r\n"))


def test_a_camera(bundle, classify):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        server.jpeg = (bundle / "samples/0.jpg").read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        status, text, problems = classify(f"{url}/still?token=secret", f"{url}/stream")
        assert (status, problems) == (0, "") and "secret" not in text
        assert [line.split(": ")[0].rsplit("/", 1)[1] for line in text.splitlines()] == [
            "still?token=***#0",
            *(f"stream#{number}" for number in range(3)),
        ]
        status, _, problems = classify(f"{url.replace('//', '//me:secret@')}/none")
        server.shutdown()
    assert status == 1 and problems == f"error: {url}/none cannot be read: Not Found\n"


def test_a_benchmark(bundle, classify):
    status, text, _ = classify("--benchmark", "--seconds", "0.1")
    assert status == 0 and [line.split("images/s ")[1] for line in text.splitlines()][2] == "in result.json at batch 1"


def test_what_is_no_image_does_not_stop_the_others(bundle, classify, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    (tmp_path / "photos/text.txt").write_text("no image")
    (tmp_path / "photos/dangling.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "photos/pipe.png")
    shutil.copy(bundle / "samples/1.png", tmp_path / "photos/good.png")
    status, text, problems = classify(tmp_path / "photos", "missing.jpg")
    assert status == 1 and len(text.splitlines()) == 1
    first, second = problems.splitlines()
    assert re.match(r"error: image .*broken.png cannot be read \(.*\): replace or remove it$", first)
    assert second == "error: missing.jpg: no such file or folder"


@pytest.mark.parametrize("flag, value", [("--top", "0"), ("--batch", "-1"), ("--seconds", "nan"), ("--seconds", "0")])
def test_a_number_that_is_not_positive(capsys, flag, value):
    with pytest.raises(SystemExit):
        client.parser().parse_args(["photo.jpg", flag, value])
    assert f"argument {flag}: {value} is not a positive number" in capsys.readouterr().err


def test_streams_that_are_closed(bundle):
    program = [sys.executable, str(bundle / "classify.py"), "-"]
    for closed, image, problem in (("<&-", "-", "error: stdin is closed\n"), (">&-", bundle / "samples/0.jpg", "")):
        command = ["bash", "-c", f'"$@" {closed}', "bash", *program[:2], image]
        assert subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr == problem


def test_names_that_are_no_text_are_printed(bundle, tmp_path):
    shutil.copy(bundle / "samples/1.png", os.fsencode(tmp_path) + b"/caf\xe9.png")
    (bundle / "classes.txt").write_text("".join(f"\u732b {number}\n" for number in range(10)), encoding="utf-8")
    without_sum(bundle, "classes.txt")
    done = subprocess.run(
        [sys.executable, bundle / "classify.py", tmp_path.joinpath(os.fsdecode(b"caf\xe9.png"))],
        **{"env": {**os.environ, "PYTHONIOENCODING": "latin-1"}, "capture_output": True, "text": True},
    )
    assert done.returncode == 0 and re.search(r"caf\\udce9.png: \\u732b \d ", done.stdout), done.stderr


def test_an_image_with_a_jpeg_in_it_is_one_image(bundle):
    """As a PNG with a thumbnail in its EXIF data is."""
    thumbnail, stream = (bundle / "samples/0.jpg").read_bytes(), io.BytesIO()
    bundles.picture(64, 48).save(stream, "PNG", exif=b"Exif\x00\x00" + thumbnail)
    assert thumbnail in stream.getvalue()
    found = list(image_sources._of_stream("stdin", io.BytesIO(stream.getvalue())))
    assert found == [("stdin", stream.getvalue())]


def test_logits_that_are_not_finite_are_a_problem_of_their_image_alone():
    class Model:
        pixels, logits = (lambda self, data, name: data), (lambda self, pixels: np.float32(pixels))

    images = [("a", [1.0, 2.0]), ("b", [np.nan, 2.0]), ("c", [3.0, np.inf]), ("d", [4.0, 5.0])]
    answers = list(stream.of_images(Model(), images, 4))
    assert [(name, str(problem)) for name, logits, problem in answers if logits is None] == [
        ("b", "b: its logits are not finite: run selftest"),
        ("c", "c: its logits are not finite: run selftest"),
    ]
    assert [logits.tolist() for _, logits, _ in answers if logits is not None] == [[1.0, 2.0], [4.0, 5.0]]


@pytest.mark.parametrize("name", ["model.engine", "levit/core/files.py", "classes.txt"])
def test_a_damaged_file_is_named(bundle, classify, name):
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    status, text, problems = classify("selftest")
    assert (status, text) == (1, "") and problems.startswith(
        f"error: {name} is not the file of the bundle (SHA256SUMS)"
    )
    assert problems.count("\n") == 1
    (bundle / name).unlink()
    assert classify("selftest")[2] == f"error: {name}: No such file or directory: unpack the bundle again\n"


def test_a_class_file_of_another_length(bundle, classify):
    (bundle / "classes.txt").write_text("one\ntwo\n")
    without_sum(bundle, "classes.txt")
    status, _, problems = classify("selftest")
    assert status == 1 and problems == "error: classes.txt has 2 classes, and the engine 10: give one line for each\n"


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"version": None}, "and openvino is not installed here: requirements.txt has it"),
        ({"version": "2"}, "version is 2 here, and was 1: install openvino 1, or make a bundle with this one"),
        ({"isa": ["avx2"]}, "this processor has no fma: make a bundle on a machine like this one"),
        ({"isa": ["amx", "avx2", "fma"]}, "this processor has amx as well: make a bundle on"),
        ({"architecture": "aarch64"}, "architecture is aarch64 here, and was x86_64"),
        ({"compute_capability": "8.7"}, "compute_capability is 8.7 here, and was none"),
    ],
)
def test_another_machine_is_refused(changes, problem):
    with pytest.raises(UserError, match=re.escape(problem)) as refused:
        compatibility.check(HERE, {**HERE, **changes})
    assert str(refused.value).startswith("the engine was built for openvino 1 on A")


def test_another_device_is_a_warning():
    assert compatibility.check(HERE, HERE) == []
    (warning,) = compatibility.check(HERE, {**HERE, "device": "B"})
    assert "device is B here, and was A: run selftest" in warning
    portable = {**HERE, "runtime": "pytorch"}
    assert len(compatibility.check(portable, {**portable, "isa": [], "architecture": "aarch64"})) == 0


def test_another_runtime_is_refused_by_the_client(bundle, classify):
    result = json.loads((bundle / "result.json").read_text())
    result["target_identity"].update(version="0.1", device="another machine")
    (bundle / "result.json").write_text(json.dumps(result))
    without_sum(bundle, "result.json")
    status, _, problems = classify("selftest")
    runtime = result["target_identity"]["runtime"]
    assert status == 1 and problems.startswith(
        f"error: the engine was built for {runtime} 0.1 on another machine: version"
    )


class Slowly:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data, step):
        self.data, self.step = data, step

    def read1(self, _):
        block, self.data = self.data[: self.step], self.data[self.step :]
        return block


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
def test_jpegs_of_a_stream(tmp_path, step):
    """With a thumbnail, which is a JPEG in a segment, and a progressive one of several scans."""
    thumbnail = tmp_path / "thumbnail.jpg"
    bundles.picture(20, 10).save(thumbnail)
    exif = b"Exif\0\0" + thumbnail.read_bytes()
    bundles.picture(64, 48).save(tmp_path / "a.jpg", exif=exif)
    bundles.picture(48, 64, 1).save(tmp_path / "b.jpg", progressive=True)
    both = [(tmp_path / name).read_bytes() for name in ("a.jpg", "b.jpg")]
    assert both[0].count(b"\xff\xd8\xff") == 2
    stream = b"--frame\r\n\r\n" + both[0] + b"\r\n--frame\r\n\r\n" + both[1] + both[0] + b"\r\n--frame--\r\n"
    assert list(image_sources.jpegs(Slowly(stream, step))) == [*both, both[0]]
    with pytest.raises(UserError, match="the stream ends within a JPEG"):
        list(image_sources.jpegs(Slowly(both[0][:-20], step)))


def test_samples_are_of_classes_far_apart():
    assert pick_samples.positions([0, 0, 1, 2, 3, 4]) == [0, 3, 5]
    assert pick_samples.positions([5, 5, 5, 5]) == [0, 1, 2] and pick_samples.positions([1]) == [0]


def test_imports_are_renamed_where_they_are_imports():
    text = "import runtimes\n    from data import index\nfrom runtimes._cpu import x\nimport database\n# from data\n"
    renamed = archive.packaged(text, "data|runtimes").decode()
    assert renamed.splitlines() == [
        "from levit import runtimes",
        "    from levit.data import index",
        "from levit.runtimes._cpu import x",
        "import database",
        "# from data",
    ]


def test_what_a_bundle_cannot_be_made_of(packed):
    folder, runtime = packed.parent, "onnxruntime"
    for changes, problem in (
        ({"samples": f"{folder}/index.json"}, "index.json is not the file of samples: delete it and run again"),
        ({"engines": f"{folder}/net.onnx"}, "result.json is of none of the engines"),
        ({"result": f"{folder}/index.json"}, "index.json is not a result: delete it and run again"),
    ):
        status, text, path = bundles.pack(folder, runtime, "bad", **changes)
        assert status == 1 and text.splitlines()[-1].startswith("error: ") and problem in text, text
        assert not path.exists()
