"""Other timm classifiers than LeViT with random weights, end to end: on the CPU, and as TensorRT-RTX engines."""

import json

import numpy as np
import pytest
import torch

import forks
import pictures
from devices import probe
from model import zoo
from workflow import Workflow

CLASSES = 5
NETWORKS = {
    "DeiT-tiny": {"timm": "deit_tiny_patch16_224", "size": 224},
    "EfficientFormer-L1": {"timm": "efficientformer_l1", "size": 224},
    "MobileNetV3-small": {"timm": "mobilenetv3_small_100", "size": 160},
    "LeViT-conv": {"timm": "levit_conv_128s", "size": 192},
}
ERRORS = {"fp32": 1e-4, "int8_ptq": 0.15, "int8_qat": 0.15}  # of logits, as shares of their spread
SLOW = {"learning_rate": 1e-6, "scale_learning_rate": 1e-6}  # random weights give logits that any step moves
BUILT = ("fp32", "fp16", "int8_ptq")


def randomized(name):
    """Return a network whose BatchNorms do something."""
    torch.manual_seed(0)
    model = zoo.create(NETWORKS[name], CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    pictures.draw(folder / "images", CLASSES, {"train": 12, "val": 4})
    workflow = Workflow.fresh(folder / "run")
    for name in NETWORKS:
        torch.save(randomized(name).state_dict(), workflow.path(f"{name}.pth"))

    def settle(config):
        splits = {"calib": 16, "select": 10}
        row = {"path": str(folder / "images"), "classes": CLASSES, "weights": "{model}.pth", "splits": splits}
        config.update(dataset="mine", models={**config["models"], **NETWORKS})
        config["datasets"]["mine"] = row
        for precision in config["precisions"].values():
            precision.update(fallback="none", budget=100.0)
            if "calibration" in precision:
                precision["calibration"] = {"method": "max", "bias_correction": not precision.get("dla"), "images": 16}
        config["precisions"]["int8_qat"]["qat"].update(steps=3, batch=4, **SLOW)
        planned = {**config["precisions"]["int8_ptq"], "fallback": "auto"}
        planned["calibration"] = {"method": "max", "equalize": True, "smoothing": 0.5, "images": 16}
        config["precisions"].update(planned=planned, planned_half={**config["precisions"]["fp16"], "fallback": "auto"})
        for target in config["targets"].values():
            target.update(warmup_ms=10, duration_ms=50, iterations=5, batches=[1, 4])

    workflow.config(settle)
    return workflow


def build(workflow, *targets):
    status, output = workflow.run("--quiet", "rules", "--", *targets, LEVIT_PYTHON=forks.working_python())
    assert status == 0, output
    return [json.loads(workflow.path(target).read_text()) for target in targets]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_results_on_the_processor(workflow, name, precision):
    (result,) = build(workflow, f"results/{name}.{precision}.cpu.json")
    logits = np.load(workflow.path(f"results/mine/accuracy/{name}.torch.npy"))
    error = result["accuracy"]["max_abs_logit_error"] / (logits.max() - logits.min())
    counts = result["engine"]["precision_of_layers"]
    print(f"{name} {precision}: {error:.1e} of the logits' spread, {counts}")
    assert error <= ERRORS[precision] and result["accuracy"]["num_images"] == 20
    assert (counts["int8"] > 10) == precision.startswith("int8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DeiT-tiny", "MobileNetV3-small"])
def test_plans(workflow, name):
    """A plan knows all of their operators, in FP16 and in INT8."""
    plans = build(
        workflow, *(f"results/mine/plans/{name}.{precision}.json" for precision in ("planned", "planned_half"))
    )
    for plan in plans:
        assert plan["nodes_total"] > 50 and plan["measured"]["num_images"] == 10


@pytest.mark.slow
@pytest.mark.skipif(probe.facts("tensorrt_rtx")["version"] is None, reason="TensorRT-RTX is not installed")
@pytest.mark.parametrize("name", NETWORKS)
def test_engines_for_rtx(workflow, name):
    engines = [f"results/mine/engines/{name}.{precision}.rtx" for precision in BUILT]
    described = build(workflow, *(f"{engine}.json" for engine in engines))
    sizes = [workflow.path(f"{engine}.engine").stat().st_size for engine in engines]
    counts = [one["precision_of_layers"] for one in described]
    print(name, sizes, counts)
    assert sizes[1] < 0.7 * sizes[0] and counts[2]["int8"] > 10
    assert [max(count, key=count.get) for count in counts[:2]] == ["fp32", "fp16"]
