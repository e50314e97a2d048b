"""The half that runs on a device, in an interpreter as old as JetPack 5.1's (.venv8: CPython 3.8, no torch)."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_engine_commands import COUNT, MODEL, TIMING, folder, options  # noqa: F401 (folder is a fixture)

from conftest import ROOT
from core import sources
from core.files import sha256_file
from data import preprocess
from workflow import PARTS, REPOSITORY

PYTHON = Path(os.environ.get("LEVIT_PYTHON8") or REPOSITORY / ".venv8/bin/python")
SCRIPTS = ROOT / "workflow_scripts"
COMMANDS = ("fingerprint", "build_engine", "evaluate_engine", "benchmark", "paired_benchmark", "run_trtexec")
COMMANDS += (
    "profile_engine",
    "retime",
    "bisect_precision",
    "assemble_result",
    "choose_precision",
    "summarize",
    "device_kit",
    "sync_device",
    "doctor",
    "snakefile/run_checks",
)
RUNTIMES = ["onnxruntime", "openvino"]

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason=f"{PYTHON} is not there: `make test` makes it")


def old(*arguments, **options):
    """Run the old interpreter; return (status, what it prints on either stream)."""
    command = [str(PYTHON), *map(str, arguments)]
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    kept.update(PATH=f"{PYTHON.parent}:/usr/bin:/bin", OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=kept, timeout=300, **options)
    return done.returncode, done.stdout + done.stderr


def call(script, *arguments):
    status, said = old(SCRIPTS / f"{script}.py", *arguments)
    assert status == 0, said
    return said


def facts(runtime):
    """Return what the old interpreter's probe says of a runtime there."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from devices import probe\n"
        "print(json.dumps(probe.facts(sys.argv[2])))"
    )
    return json.loads(old("-c", program, SCRIPTS, runtime)[1])


def test_it_is_as_old_as_jetpack_5():
    assert old("-c", "import sys; print(*sys.version_info[:2])")[1].strip() in ("3 8", "3 9")
    assert "ModuleNotFoundError" in old("-c", "import torch")[1]


@pytest.mark.parametrize("size", [(249, 999), (640, 480), (100, 900)])
def test_pixels_are_those_of_todays_pillow(tmp_path, size):
    """Older versions resize images that lose many more rows than columns in another order."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    Image.fromarray(np.stack([x * 7 + y * 3, x * y, 255 * ((x // 3 + y // 5) % 2)], axis=2).astype(np.uint8)).save(
        tmp_path / "image.png"
    )
    geometries = [
        {"size": 224, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"},
        {"size": 65, "crop": 1.15, "crop_mode": "center", "interpolation": "bicubic"},
    ]
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from data import preprocess\n"
        "for n, geometry in enumerate(json.loads(sys.argv[2])):\n"
        "    preprocess.prepare(preprocess.load('image.png'), geometry).tofile(f'{n}.raw')"
    )
    status, said = old("-c", program, SCRIPTS, json.dumps(geometries), cwd=tmp_path)
    assert status == 0, said
    for n, geometry in enumerate(geometries):
        here = preprocess.prepare(preprocess.load(str(tmp_path / "image.png")), geometry)
        assert (tmp_path / f"{n}.raw").read_bytes() == here.tobytes(), geometry


def test_every_module_of_a_device_compiles():
    runtimes = [f"runtimes/{path.name}" for path in (SCRIPTS / "runtimes").glob("[a-z]*.py")]
    files = sources.closure(*(f"{name}.py" for name in COMMANDS), *runtimes)
    assert len(files) > 40
    program = "import sys\nfor path in sys.argv[1:]: compile(open(path, encoding='utf-8').read(), path, 'exec')"
    status, said = old("-c", program, *files)
    assert status == 0, said


@pytest.fixture(scope="module", params=RUNTIMES)
def made(request, folder, tmp_path_factory):  # noqa: F811
    """(runtime, folder): all that a target's jobs write, made by the old interpreter."""
    runtime, place = request.param, tmp_path_factory.mktemp(request.param)
    identity, common = facts(runtime), options(runtime=runtime)
    common += options(identity=identity)
    engine = options(engine=str(place / "net.engine"))
    recipe = {"compute": "fp32", "batches": [1, 4], "threads": 1}
    call("fingerprint", *options(target={"runtime": runtime}, identity=str(place / "identity.json")))
    call(
        "build_engine",
        *options(onnx=str(folder / "net.onnx"), recipe=recipe, description=str(place / "net.json")),
        *engine,
        *common,
    )
    given = {"images": folder / "val.u8", "index": folder / "index.json", "reference": folder / "reference.npy"}
    given = {**{name: str(path) for name, path in given.items()}, "accuracy": str(place / "accuracy.json")}
    call(
        "evaluate_engine",
        *options(**given, split="val", model=str(folder / MODEL), recipe={"threads": 1}),
        *engine,
        *common,
    )
    call("benchmark", *options(benchmark=str(place / "benchmark.json"), recipe=TIMING), *engine, *common)
    score = {"engine_sha256": sha256_file(place / "net.engine"), "top1": 1.0, "fp32_top1": 1.0, "num_images": COUNT}
    (place / "select.json").write_text(json.dumps(score))
    several = ["--engines", *[place / "net.engine"] * 2, "--select", *[place / "select.json"] * 2]
    turns = {**TIMING, "budget": 0.3, "candidates": [{"precision": name, "batches": [1, 4]} for name in ("a", "b")]}
    call("paired_benchmark", *several, *options(paired_benchmark=str(place / "turns.json"), recipe=turns), *common)
    profiling = {"batches": [4], "threads": 1}
    call("profile_engine", *options(profile=str(place / "profile.json"), recipe=profiling), *engine, *common)
    return runtime, place


def test_a_targets_jobs(made):
    runtime, place = made
    read = {path.stem: json.loads(path.read_text()) for path in place.glob("*.json")}
    assert read["identity"]["runtime"] == runtime and read["net"]["fingerprint"]["version"] == facts(runtime)["version"]
    assert read["accuracy"]["top1"] == pytest.approx(100 * 20 / COUNT)
    assert read["accuracy"]["agreement_with_fp32"] == 100.0 and read["accuracy"]["max_abs_logit_error"] < 1e-4
    assert [entry["batch"] for entry in read["benchmark"]["benchmark"]] == TIMING["batches"]
    assert all(entry["images_per_second"] > 0 for entry in read["benchmark"]["benchmark"])
    assert read["profile"]["profile"][0]["total_ms"] > 0
    for entry in read["turns"]["paired_benchmark"]:
        assert [len(engine["median_ms"]) for engine in entry["engines"]] == [12, 12]


def test_an_engine_with_tensorrt_goes_as_far_as_there_is_a_gpu(folder, tmp_path):  # noqa: F811
    """Where TensorRT's own wheel is in that interpreter it is the GPU that is missing, else TensorRT itself."""
    installed = old("-c", "import tensorrt")[0] == 0
    said = old(
        SCRIPTS / "build_engine.py",
        *options(onnx=str(folder / "net.onnx"), runtime="tensorrt", identity=facts("tensorrt")),
        *options(recipe={"compute": "fp16", "batches": [1]}),
        *options(engine=str(tmp_path / "x.engine"), description=str(tmp_path / "x.json")),
    )
    assert said[0] == 1 and "Traceback" not in said[1]
    missing = "NVIDIA GPU" if installed else "tensorrt cannot be imported here"
    assert missing in said[1], said[1]
    assert not list(tmp_path.iterdir())


def test_both_interpreters_say_the_same():
    """Statistics, the text of a calibration cache, canonical JSON and hashes of code decide keys and results."""
    program = f"""
import sys; sys.path.insert(0, {str(SCRIPTS)!r})
import random
from pathlib import Path
from core.files import canonical, digest_of
from measure import stats
from runtimes import _calibration
from devices import probe
from configuration import schema
from configuration import tables
from snakefile import device_site
values = [random.Random(7).uniform(0.9, 1.1) for _ in range(257)]
print(canonical(stats.summary(values)), stats.is_stable(values), stats.variation(values).hex())
print(_calibration.text({{"input_0": 1.0, "/conv": 0.0123456789, "é": 3e-8}}, "8.5.2.2"))
print(digest_of({{"b": [1, 2.5, None], "a": "ü"}}))
"""
    status, said = old("-c", program)
    assert status == 0, said
    new = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said == new.stdout and "TRT-8502-EntropyCalibration2\n" in said


SLOW_CORES = [pytest.param(["--cores", number], marks=pytest.mark.slow) for number in ("all", "2")]


@pytest.mark.parametrize("options", [["--cores"], *SLOW_CORES], ids=lambda o: "".join(o[1:]))
def test_snakemake_7_on_a_device(tmp_path, options):
    """`snakemake --cores`, as the original was run: what is reachable is planned, and no job of the host starts."""
    for part in PARTS:
        copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy2
        copy(REPOSITORY / part, tmp_path / part)
    command = ["-m", "snakemake", "-n", "--workflow-profile", "profiles/device", *options]
    status, said = old(*command, "--config", "site=device", "results={models: [LeViT-tiny]}", cwd=tmp_path)
    assert status == 0, said
    assert "build_engine" in said and "skipped: xavier: " in said
    status, said = old(*[part for part in command if part != "-n"], cwd=tmp_path)
    assert status == 1 and "is missing here: on the host run snakemake results/digits/" in said
    assert "error: a device makes none of that (site: device in the config)" in said and "Traceback" not in said


def test_the_doctor_examines_a_device(tmp_path):
    shutil.copy(REPOSITORY / "config.yaml", tmp_path)
    status, said = old(SCRIPTS / "doctor.py", "ort", cwd=tmp_path)
    assert status == 0 and re.search(r"^  ok +target ort +onnxruntime 1\.19", said, re.MULTILINE), said
    assert (tmp_path / "doctor.tar.gz").is_file()
