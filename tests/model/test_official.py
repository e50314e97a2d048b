"""From the address of an official file to a result: downloaded with a break in the middle, converted, evaluated."""

import hashlib
import json

import numpy as np
import pytest
import torch

import file_server
import forks
import original_levit
import pictures
from data import index, preprocess
from workflow import Workflow

CLASSES = 10


def settle(root, server, state, model):
    """Return a change of the configuration: dataset imagenet in a folder, one model's file on a local server."""

    def change(config):
        config["dataset"] = "imagenet"
        config["datasets"]["imagenet"].update(path=str(root), classes=CLASSES, splits={"calib": 8, "select": 10})
        config["models"][model].update(url=f"{server.url}/cut-once", sha256=hashlib.sha256(state).hexdigest()[:8])
        for precision in config["precisions"].values():
            precision.get("calibration", {}).update(images=8)
        for target in config["targets"].values():
            target.update(warmup_ms=10, duration_ms=50, iterations=5)

    return change


@pytest.mark.parametrize(
    ("model", "size"), [("LeViT-tiny", 64), pytest.param("LeViT-128S", 224, marks=pytest.mark.slow)]
)
@pytest.mark.long
def test_download_conversion_and_evaluation(tmp_path, model, size):
    workflow = Workflow.fresh(tmp_path / "run")
    state = original_levit.state(model, CLASSES, size)
    torch.save({"model": state}, tmp_path / "file.pth")
    content = (tmp_path / "file.pth").read_bytes()
    pictures.draw(tmp_path / "images", CLASSES, {"train": 4, "val": 3})
    with file_server.serving(content) as server:
        workflow.config(settle(tmp_path / "images", server, content, model))
        status, output = workflow.run(
            "--quiet",
            "rules",
            "--",
            f"results/{model}.fp32.ort.json",
            LEVIT_PYTHON=forks.working_python(),
            no_proxy="127.0.0.1",
            NO_PROXY="127.0.0.1",
        )
        assert status == 0, output
        assert server.seen == [("/cut-once", None), ("/cut-once", f"bytes={file_server.CUT}-")]
    assert workflow.path(f"results/imagenet/checkpoints/{model}.pth").read_bytes() == content
    result = json.loads(workflow.path(f"results/{model}.fp32.ort.json").read_text())
    expected = {"name": "imagenet", "split": "val", "num_images": 30, "num_classes": CLASSES, "subset": None}
    order = {"order": "sorted", "given": False, "natural_differs": False}
    assert result["dataset"] == {**expected, "class_order": order, "class_names": None, "left_out": {}}
    assert result["provenance"]["checkpoint_sha256"] == hashlib.sha256(content).hexdigest()
    assert result["accuracy"]["agreement_with_fp32"] == 100.0
    place = workflow.path("results/imagenet/data/index.json")
    known = index.read(place)
    logits = original_logits(state, index.files(known, place, "val"), model, size)
    assert np.abs(logits - np.load(workflow.path(f"results/imagenet/accuracy/{model}.torch.npy"))).max() <= 1e-4
    assert result["accuracy"]["top1"] == 100 * np.mean(logits.argmax(1) == index.labels(known, "val"))


def original_logits(state, files, model, size):
    """Return what the original computes of images, decoded here."""
    row = {"size": size, "crop": 0.9, "crop_mode": "center", "interpolation": "bicubic"}
    pixels = np.stack([preprocess.prepare(preprocess.load(file), row) for file in files])
    images = torch.from_numpy(preprocess.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        return original_levit.Original(state, model, size)(images).numpy()
