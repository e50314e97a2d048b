"""Quantize the first model there, by the workflow's command, to the graphs that hand INT8 from layer to layer.

python3 tests/gpu/chain.py STAGED OUT

Writes OUT/FORM.onnx of each of FORMS, from the staged QAT checkpoint, or without one from the calibrated FP32 network.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FIRST, CALIBRATION, QAT = "LeViT-128S", "calibration/LeViT-128S.int8_qat.json", "qat/LeViT-128S.int8_qat.pth"
FORMS = {"int8": (), "skip": ("attention",), "codes": ("residual",)}  # {name: kinds of nodes that are left out}


def main():
    staged, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(exist_ok=True)
    row = json.loads((staged / "models.json").read_text())[FIRST]
    graph = yaml.safe_load((ROOT / "config.yaml").read_text())["graphs"]["gpu_fused_int8"]
    files = {
        "checkpoint": row["checkpoint"],
        "calibration": CALIBRATION,
        "images": row["images"],
        "model": row["model"],
    }
    files.update({"qat": QAT} if (staged / QAT).exists() else {})
    for form, left_out in FORMS.items():
        placement = [kind for kind in graph["placement"] if kind not in left_out]
        words = {**{name: staged / path for name, path in files.items()}, "quantized": out / f"{form}.onnx"}
        words.update(passes=json.dumps(graph["passes"]), placement=json.dumps(placement), chained="true")
        options = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
        script = str(ROOT / "workflow_scripts/quantize_onnx.py")
        subprocess.run([sys.executable, script, "--classes", str(row["classes"]), *options], check=True)


if __name__ == "__main__":
    main()
