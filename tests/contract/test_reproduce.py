"""A result is built again from what it records, in another folder with an empty store, to the same bytes."""

import json
import subprocess
import sys

import pytest
import torch

import forks
import original_levit
import reproduce
from workflow import Workflow

RESULT = "results/LeViT-tiny.int8_ptq.cpu.json"
OLD = reproduce.ROOT / "docs/measurements/h200-tensorrt-8.5.3.1/LeViT-128S.fp16.gpu.json"
SAME = ("*.onnx", "*.pth", "*.u8", "*.npy", "calibration/*.json", "plans/*.json", "data/index.json", "accuracy/*.json")


def quick(config):
    """Weights of the user's, in a file beside, and short timings; the precision keeps its plan."""
    config["datasets"]["digits"].update(weights="{model}.pth", splits={"calib": 32, "select": 40})
    for precision in config["precisions"].values():
        precision.get("calibration", {}).update(images=32)
    config["precisions"]["int8_ptq"].update(budget=100.0, calibration={"method": "max", "images": 32})
    config["targets"]["cpu"].update(warmup_ms=10, duration_ms=50, iterations=5)


def git(folder, *arguments):
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *author, *arguments], check=True, capture_output=True)


@pytest.mark.slow
def test_a_result_is_built_again_to_the_same_bytes(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run")
    workflow.path(".gitignore").write_text("results\n.cache\n.snakemake\nfake-python\n__pycache__\n")
    git(workflow.folder, "init", "-q")
    git(workflow.folder, "add", "-A")
    git(workflow.folder, "commit", "-q", "-m", "as it is")
    torch.save(original_levit.state("LeViT-tiny", 10, 64), workflow.path("LeViT-tiny.pth"))
    workflow.config(quick)  # what was changed after the commit is in the recorded rows
    status, output = workflow.run("--quiet", "rules", "--", RESULT, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    again = tmp_path / "again"
    script = [sys.executable, "workflow_scripts/reproduce.py", RESULT]
    done = subprocess.run([*script, "--keep", again], cwd=workflow.folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not committed" not in done.stdout, "an edited config.yaml alone is in the recorded rows"
    assert f"{RESULT}: the same but for its timings" in done.stdout
    first, second = (folder / "results/digits" for folder in (workflow.folder, again))
    names = sorted({str(path.relative_to(first)) for pattern in SAME for path in first.rglob(pattern)})
    assert len(names) >= 12, names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


RECIPE = {"seed": 0, "dataset": {}, "target": {}, "graphs": {}}


def made(**changes):
    """Return a result with some of its facts changed, by dotted name."""
    result = {
        "model": "m",
        "precision": "p",
        "target": "t",
        "benchmark": [{"batch": 1, "images_per_second": 5.0}],
        "dataset": {"name": "d"},
        "target_identity": {},
        "accuracy": {"top1": 50.0, "budget": 1.0},
        "engine": {"sha256": "a", "build_seconds": 1.0},
        "provenance": {"git_commit": "c", "graph_sha256": "b", "versions": {"torch": "1"}, "recipe": RECIPE},
    }
    for name, value in changes.items():
        place = result
        *parents, last = name.split("__")
        for parent in parents:
            place = place[parent]
        place[last] = value
    return result


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"benchmark": [], "engine__build_seconds": 2.0, "provenance__git_commit": "d"}, []),
        ({"engine__sha256": "z"}, ["engine.sha256: recorded a, now z"]),
        ({"accuracy__top1": 49.0}, ["accuracy.top1: recorded 50.0, now 49.0"]),
        ({"provenance__graph_sha256": "z"}, ["provenance.graph_sha256: recorded b, now z"]),
        (
            {"provenance__versions": {"torch": "2", "timm": "1"}},
            ["provenance.versions.timm: recorded nothing, now 1", "provenance.versions.torch: recorded 1, now 2"],
        ),
    ],
)
def test_differences_are_all_but_timings(change, said):
    assert reproduce.differences(made(), made(**change)) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": "int8_qat"}, "reproduce results/m.int8_qat.t.json"),
        ({"chosen": None, "provenance__git_commit": None}, "was not built in a git repository"),
        (
            {"chosen": None, "provenance__git_commit": "0" * 40},
            "commit 0000000000000000000000000000000000000000 cannot be",
        ),
    ],
)
def test_what_cannot_be_built_again_is_said_in_one_line(change, said, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(made(**change)))
    script = [sys.executable, str(reproduce.ROOT / "workflow_scripts/reproduce.py"), str(tmp_path / "r.json")]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1


def test_what_took_training_is_made_first_as_it_was():
    trained = {
        "results/d/qat/m.p.pth": {"context": {"device": "cuda", "processes": 4, "dtype": "bfloat16"}},
        "results/d/checkpoints/m.pth": {"context": {"device": "cpu", "threads": 3, "processes": 1}},
    }
    assert reproduce.trainings({"provenance": {"trained": trained}}) == [
        ("results/d/checkpoints/m.pth", ["--cores", "3"], {"CUDA_VISIBLE_DEVICES": "", "LEVIT_PROCESSES": "1"}),
        ("results/d/qat/m.p.pth", [], {"LEVIT_PROCESSES": "4"}),
    ]
    assert reproduce.trainings({"provenance": {}}) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "r.json does not exist"),
        ("", "r.json is not JSON"),
        ("[1]", "r.json is not a result: delete it and run again"),
        ('{"model": "m"}', "r.json is not a result: delete it and run again"),
        (OLD.read_text(), "does not record its dataset: an older version of the project wrote it"),
    ],
)
def test_what_is_no_result_to_build_again_is_said_in_one_line(text, said, tmp_path):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    script = [sys.executable, str(reproduce.ROOT / "workflow_scripts/reproduce.py"), str(tmp_path / "r.json")]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
