"""LeViT-128S with random weights as TensorRT-RTX engines: the workflow's own rules, on a machine without a GPU."""

import json

import pytest
import torch
import yaml

import forks
from conftest import ROOT
from devices import probe
from model import zoo
from workflow import Workflow

PRECISIONS = ("fp32", "fp16", "int8_ptq")

if probe.facts("tensorrt_rtx")["version"] is None:
    pytest.skip("TensorRT-RTX is not installed", allow_module_level=True)


@pytest.mark.slow
def test_engines_of_levit_128s(tmp_path):
    workflow = Workflow.fresh(tmp_path / "run")
    row = yaml.safe_load((ROOT / "config.yaml").read_text())["models"]["LeViT-128S"]
    torch.manual_seed(0)
    torch.save(zoo.create({"timm": row["timm"], "size": 224}, 10).state_dict(), workflow.path("w.pth"))

    def few_images(config):
        config["datasets"]["digits"].update(weights="w.pth", splits={"calib": 16, "select": 200})
        for precision in config["precisions"].values():
            precision["fallback"] = "none"
            if "calibration" in precision:
                precision["calibration"] = {"method": "max", "images": 16}

    workflow.config(few_images)
    engines = [f"results/digits/engines/LeViT-128S.{precision}.rtx" for precision in PRECISIONS]
    status, output = workflow.run(
        "--", *(f"{engine}.engine" for engine in engines), LEVIT_PYTHON=forks.working_python()
    )
    assert status == 0, output
    sizes = [workflow.path(f"{engine}.engine").stat().st_size for engine in engines]
    layers = [json.loads(workflow.path(f"{engine}.json").read_text())["precision_of_layers"] for engine in engines]
    assert max(sizes[1:]) < 0.7 * sizes[0]
    assert [max(counts, key=counts.get) for counts in layers][:2] == ["fp32", "fp16"] and layers[2]["int8"] > 20
