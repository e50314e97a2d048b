"""Results of the H200 as a visit recorded them, put together as assemble_result.py would: docs/measurements/."""

import copy
import json

from workflow import REPOSITORY

FOLDER = REPOSITORY / "docs/measurements/h200-tensorrt-8.5.3.1"
BUDGETS = {"fp32": 0.1, "fp16": 0.3, "int8_ptq": 1.0, "int8_qat": 0.3}


def read(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def results():
    """Return a result of each precision, with the batch sizes that were timed."""
    return [_result(precision, budget) for precision, budget in BUDGETS.items()]


def _result(precision, budget):
    runs = [f"{precision}@{batch}" for batch in (1, 64) if (FOLDER / f"{precision}@{batch}.benchmark.json").exists()]
    result = copy.deepcopy(read("LeViT-128S.fp32.gpu"))
    accuracy, built = read(f"{runs[-1]}.accuracy"), read(f"{runs[-1]}.build")
    lost = accuracy["fp32_top1"] - accuracy["top1"]
    scores = {key: accuracy[key] for key in ("top1", "top5", "num_images", "agreement_with_fp32")}
    result.update(
        precision=precision,
        accuracy={**scores, "budget": budget, "within_budget": lost <= budget + 1e-9},
        benchmark=[entry for run in runs for entry in read(f"{run}.benchmark")["benchmark"]],
    )
    result["engine"].update(
        bytes=None,  # the visit kept no engines of quantized graphs
        sha256=accuracy["engine_sha256"],
        layers=built["layer_count"],
        precision_of_layers=built["precision_of_layers"],
    )
    return result


def write(folder):
    """Write the results below a folder's results/; return their paths, relative to the folder."""
    paths = [f"results/LeViT-128S.{result['precision']}.gpu.json" for result in results()]
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for path, result in zip(paths, results()):
        (folder / path).write_text(json.dumps(result), encoding="utf-8")
    return paths
