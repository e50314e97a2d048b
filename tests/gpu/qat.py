"""Run QAT of the staged model on a device by the workflow's own commands; score its Q/DQ graph and the staged one.

python3 tests/gpu/qat.py STAGED OUT.json cpu|cuda [PROCESSES [STEPS]]

Both graphs run in ONNX Runtime: the staged one was trained by the same recipe on a CPU.
"""

import json
import sys
import tempfile
from pathlib import Path

import yaml
from finetune import ROOT, script

AUGMENTATION = ("crop_scale", "crop_ratio", "flip")


def main():
    staged, out, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    rows = yaml.safe_load((ROOT / "config.yaml").read_text())
    recipe = {"learning_rate": 3e-5, **rows["precisions"]["int8_qat"]["qat"]}
    processes = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    if len(sys.argv) > 5:
        recipe["steps"] = int(sys.argv[5])
        del recipe["epochs"]
    row, variant = json.loads((staged / "models.json").read_text())["LeViT-128S"], rows["graphs"]["gpu"]
    training = rows["datasets"]["digits"]["training"]
    shared = {"model": staged / row["model"], "classes": row["classes"], "images": staged / row["images"]}
    shared.update(checkpoint=staged / row["checkpoint"])
    shared.update(calibration=staged / "calibration/LeViT-128S.int8_qat.json")
    placing = {key: json.dumps(variant[key]) for key in ("passes", "placement")}
    index = staged / "data/index.json"
    found = {"device": device, "processes": processes, "recipe": recipe, "top1": {}, "agreement": {}}
    with tempfile.TemporaryDirectory() as name:
        made, graph, identity = (Path(name) / file for file in ("qat.pth", "qat.onnx", "ort.json"))
        given = {"index": index, "recipe": json.dumps(recipe), "seed": 0, "device": device, "processes": processes}
        given.update(qat=made, augmentation=json.dumps({key: training[key] for key in AUGMENTATION}))
        found["seconds"] = script("train_qat", **shared, **given)
        script("quantize_onnx", **shared, **placing, qat=made, quantized=graph)
        script("fingerprint", target=json.dumps({"runtime": "onnxruntime"}), identity=identity)
        for key, engine in ((device, graph), ("staged, cpu", staged / row["graphs"]["int8_qat"])):
            files = {name: staged / row[name] for name in ("images", "index", "reference", "model")}
            options = {"runtime": "onnxruntime", "identity": identity.read_text(), "recipe": "{}", "split": "val"}
            accuracy = Path(name) / "accuracy.json"
            script("evaluate_engine", engine=engine, accuracy=accuracy, **options, **files)
            scores = json.loads(accuracy.read_text())
            found["top1"][key], found["agreement"][key] = scores["top1"], scores["agreement_with_fp32"]
    out.write_text(json.dumps(found, indent=1))
    print(found)


if __name__ == "__main__":
    main()
