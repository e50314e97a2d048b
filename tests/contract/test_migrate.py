"""What version 0.1.0 trained is adopted: an upgrade to this version trains nothing.

0.1.0 wrote no records beside its artifacts, and its results say what they were made of: `recorded/recipe_0.1.0.json` is
the recipe that its Snakefile gave a result of int8_qat.
"""

import json
import shutil
import subprocess

import pytest

from core.files import read_json, sha256_file
from staleness import MODEL
from workflow import REPOSITORY, command_python

RESULT = f"results/{MODEL}.int8_qat.cpu.json"
CHECKPOINT, QAT = TRAINED = [f"results/digits/checkpoints/{MODEL}.pth", f"results/digits/qat/{MODEL}.int8_qat.pth"]
SOURCES = {  # of what a result of 0.1.0 records the hash
    "checkpoint_sha256": CHECKPOINT,
    "calibration_sha256": f"results/digits/calibration/{MODEL}.int8_qat.json",
    "graph_sha256": f"results/digits/quantized/{MODEL}.int8_qat.cpu.onnx",
}
VERSIONS = {"torch": "2.9.1", "timm": "1.0.20"}


@pytest.fixture
def upgraded(base, tmp_path):
    """A folder with what 0.1.0 left there: artifacts without records, built by rows that are still in config.yaml."""
    workflow = base.copy(tmp_path / "work")
    recipe = read_json(REPOSITORY / "tests/recorded/recipe_0.1.0.json")

    def earlier_rows(config):
        config["models"][MODEL] = recipe["model"]
        config["datasets"]["digits"] = recipe["dataset"]
        config["precisions"]["int8_qat"] = {**recipe["precision"], "budget": 0.3}

    workflow.config(earlier_rows)
    for path in workflow.path("results").rglob("*.provenance"):
        path.unlink()
    shutil.rmtree(workflow.path(".cache"))
    for path in workflow.path(".snakemake/metadata").iterdir():  # rules of 0.1.0 had other params
        path.write_text(json.dumps({**json.loads(path.read_text()), "params": ["of 0.1.0"]}))
    hashes = {key: sha256_file(workflow.path(path)) for key, path in SOURCES.items()}
    result = {"model": MODEL, "precision": "int8_qat", "target": "cpu", "dataset": {"name": "digits"}}
    result["provenance"] = {**hashes, "recipe": recipe, "versions": VERSIONS, "git_commit": None}
    workflow.path(RESULT).write_text(json.dumps(result))
    return workflow


def migrate(workflow):
    command = [command_python(), "workflow_scripts/migrate.py"]
    done = subprocess.run(command, cwd=workflow.folder, env=workflow.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def planned(workflow):
    return {job.split()[0] for job in workflow.plan(RESULT)}


def test_what_was_trained_is_adopted(upgraded):
    before = {path: sha256_file(upgraded.path(path)) for path in TRAINED}
    assert {"train", "train_qat"} <= planned(upgraded)
    assert "adopted 2 of 2 trained artifacts" in migrate(upgraded)
    assert not {"train", "train_qat"} & planned(upgraded)
    for path, digest in before.items():
        record = read_json(upgraded.path(f"{path}.provenance"))
        assert sha256_file(upgraded.path(path)) == record["sha256"] == digest
        assert record["trained"] and record["versions"]["torch"] == VERSIONS["torch"]
    assert migrate(upgraded).startswith("nothing to adopt")
    assert not [work for work in upgraded.build(RESULT) if work.startswith("train")]
    assert {path: sha256_file(upgraded.path(path)) for path in TRAINED} == before and upgraded.plan(RESULT) == []


def test_what_is_not_adopted_is_named_with_the_reason(upgraded):
    def more_steps(config):
        config["precisions"]["int8_qat"]["qat"]["epochs"] = 2

    upgraded.config(more_steps)
    said = migrate(upgraded)
    assert "adopted 1 of 2" in said
    assert f"not adopted: {QAT}: precisions.int8_qat.qat.epochs was 1 when it was trained, and is 2; the next" in said
    with upgraded.path(CHECKPOINT).open("ab") as stream:
        stream.write(b"another")
    upgraded.path(f"{CHECKPOINT}.provenance").unlink()
    said = migrate(upgraded)
    assert "adopted 0 of 2" in said
    for path in TRAINED:
        assert f"not adopted: {path}: no result records its hash" in said
