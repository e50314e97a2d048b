"""What commit 4f3b3bb trained is adopted: an upgrade to this version trains nothing."""

import io
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import yaml

from core.files import read_json, sha256_file
from workflow import PARTS, REPOSITORY, jobs_of

COMMIT = "4f3b3bb"
MODEL = "LeViT-tiny"
RESULT = f"results/{MODEL}.int8_qat.cpu.json"
TRAINED = [f"results/digits/checkpoints/{MODEL}.pth", f"results/digits/qat/{MODEL}.int8_qat.pth"]
PYTHON = sys.executable


def quick(folder):
    """Let a folder's config.yaml train for seconds."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["datasets"]["digits"]["training"].update(epochs=1, small_epochs=0)
    config["datasets"]["digits"]["splits"] = {"calib": 64, "select": 100}
    config["precisions"]["int8_qat"]["calibration"]["images"] = 64
    config["precisions"]["int8_qat"].update(budget=100.0, fallback="none")
    config["precisions"]["int8_qat"]["qat"] = {"steps": 4, "batch": 16}
    config["precisions"] = {name: config["precisions"][name] for name in ("fp32", "int8_qat")}
    config["targets"]["cpu"].update(batches=[1], warmup_ms=20, duration_ms=100, iterations=5)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def run(folder, *command):
    environment = {**os.environ, "LEVIT_SNAKEMAKE_OUTPUT": "1"}  # that `jobs_of` reads
    done = subprocess.run([PYTHON, *command], cwd=folder, capture_output=True, text=True, timeout=900, env=environment)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory):
    """Results of that commit, under the files of this one."""
    archive = subprocess.run(["git", "archive", COMMIT, *PARTS], cwd=REPOSITORY, capture_output=True)
    if archive.returncode:
        pytest.skip(f"commit {COMMIT} is not in this clone's history")
    folder = tmp_path_factory.mktemp("migrate") / "work"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    quick(folder)
    status, output = run(folder, "-m", "snakemake", "--quiet", "all", "--", RESULT)
    assert status == 0, output
    for part in PARTS:
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
            shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(REPOSITORY / part, folder)
    quick(folder)
    return folder


@pytest.fixture
def folder(upgraded, tmp_path):
    return shutil.copytree(upgraded, tmp_path / "work", symlinks=True)


def planned(folder):
    status, output = run(folder, "-m", "snakemake", "-n", "--", RESULT)
    assert status == 0, output
    return {job.split()[0] for job in jobs_of(output)}


@pytest.mark.slow
def test_what_was_trained_is_adopted(folder):
    before = {path: sha256_file(folder / path) for path in TRAINED}
    versions = read_json(folder / RESULT)["provenance"]["versions"]
    assert {"train", "train_qat"} <= planned(folder)
    status, output = run(folder, "workflow_scripts/migrate.py")
    assert status == 0 and "adopted 2 of 2 trained artifacts" in output, output
    assert not {"train", "train_qat"} & planned(folder)
    for path, digest in before.items():
        record = read_json(folder / f"{path}.provenance")
        assert sha256_file(folder / path) == record["sha256"] == digest
        assert record["trained"] and record["versions"]["torch"] == versions["torch"]
    status, output = run(folder, "workflow_scripts/migrate.py")
    assert status == 0 and output.startswith("nothing to adopt")
    status, output = run(folder, "-m", "snakemake", "--quiet", "all", "--", RESULT)
    assert status == 0, output
    assert {path: sha256_file(folder / path) for path in TRAINED} == before and planned(folder) == set()


@pytest.mark.slow
def test_what_is_not_adopted_is_named_with_the_reason(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["precisions"]["int8_qat"]["qat"]["steps"] = 5
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    with (folder / TRAINED[0]).open("ab") as stream:
        stream.write(b"another")
    status, output = run(folder, "workflow_scripts/migrate.py")
    assert status == 0 and "adopted 0 of 2" in output, output
    assert f"not adopted: {TRAINED[0]}: no result has its hash" in output
    assert f"not adopted: {TRAINED[1]}: no result has its hash" in output
