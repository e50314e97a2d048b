"""Fine-tune the staged checkpoint on a device by the workflow's own commands, and score it before and after.

python3 tests/gpu/finetune.py STAGED OUT.json cpu|cuda
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, RATE = 3, 0.0003


def script(name, **options):
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    begin = time.monotonic()
    subprocess.run([sys.executable, str(ROOT / f"workflow_scripts/{name}.py"), *words], check=True)
    return round(time.monotonic() - begin, 1)


def main():
    staged, out, device = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    rows = yaml.safe_load((ROOT / "config.yaml").read_text())
    training = {**rows["datasets"]["digits"]["training"], "epochs": EPOCHS, "small_epochs": 0, "learning_rate": RATE}
    row = json.loads((staged / "models.json").read_text())["LeViT-128S"]
    shared = {"model": staged / row["model"], "classes": row["classes"]}
    found, start = {"device": device, "training": training}, staged / row["checkpoint"]
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "tuned.pth"
        options = {"index": staged / "data/index.json", "start": start, "training": json.dumps(training)}
        found["seconds"] = script("train", **options, **shared, seed=0, device=device, checkpoint=made)
        for key, checkpoint in (("before", start), ("after", made)):
            images = {"images": staged / row["images"], "index": staged / row["index"], "split": "val"}
            files = {"accuracy": Path(name) / "a.json", "logits": Path(name) / "a.npy"}
            script("evaluate_torch", checkpoint=checkpoint, **images, **files, **shared)
            found[key] = json.loads(files["accuracy"].read_text())["top1"]
    out.write_text(json.dumps(found, indent=1))
    print(found)


if __name__ == "__main__":
    main()
