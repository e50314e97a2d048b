"""Train models on a device by the workflow's own commands; export, clean and score each, all of them at once.

python3 tests/gpu/make_models.py STAGED OUT cpu|cuda NAME,NAME [EPOCHS]

Writes OUT/NAME.pth, NAME.{gpu,gpu_fused}.onnx, NAME.torch.npy, and NAME.trained.json with each command's seconds.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FIRST, VARIANTS = "LeViT-128S", ("gpu", "gpu_fused")


class Model:
    """One model's commands, with a log of its own."""

    def __init__(self, name, staged, out, threads):
        self.name, self.staged, self.out, self.threads, self.seconds = name, staged, out, threads, {}
        self.row = json.loads((staged / "models.json").read_text())[FIRST]
        self.file = out / f"{name}.json"
        network = json.loads((staged / self.row["model"]).read_text())
        self.file.write_text(json.dumps({**network, "timm": name.lower().replace("levit-", "levit_")}))

    def script(self, script, **options):
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        begin = time.monotonic()
        with open(self.out / f"{self.name}.log", "ab") as log:
            command = [sys.executable, str(ROOT / f"workflow_scripts/{script}.py"), *words]
            subprocess.run(command, check=True, stdout=log, stderr=log, env=environment)
        self.seconds[script] = round(time.monotonic() - begin, 1)

    def make(self, training, device, passes):
        made, shared = self.out / self.name, {"model": self.file, "classes": self.row["classes"]}
        images = {"images": self.staged / self.row["images"], "checkpoint": f"{made}.pth"}
        index = self.staged / "data/index.json"
        given = {"index": index, "training": json.dumps(training), "seed": 0, "processes": 1, "threads": self.threads}
        self.script("train", **shared, **given, device=device, checkpoint=f"{made}.pth")
        self.script("export_onnx", **shared, **images, onnx=f"{made}.onnx")
        for kind in VARIANTS:
            self.script("clean_onnx", onnx=f"{made}.onnx", passes=json.dumps(passes[kind]), clean=f"{made}.{kind}.onnx")
        scored = {"index": index, "split": "val", "threads": self.threads, "accuracy": f"{made}.accuracy.json"}
        self.script("evaluate_torch", **shared, **images, **scored, logits=f"{made}.torch.npy")
        top1 = json.loads(Path(f"{made}.accuracy.json").read_text())["top1"]
        found = {"device": device, "training": training, "seconds": self.seconds, "top1": top1}
        Path(f"{made}.trained.json").write_text(json.dumps(found, indent=1))


def main():
    staged, out, device, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4].split(",")
    rows = yaml.safe_load((ROOT / "config.yaml").read_text())
    training = rows["datasets"]["digits"]["training"]
    if len(sys.argv) > 5:
        training = {**training, "epochs": int(sys.argv[5]), "small_epochs": 0}
    passes = {kind: rows["graphs"][kind]["passes"] for kind in VARIANTS}
    out.mkdir(parents=True, exist_ok=True)
    threads = max(1, len(os.sched_getaffinity(0)) // (2 * len(names)))
    models = [Model(name, staged, out, threads) for name in names]
    workers = [threading.Thread(target=model.make, args=(training, device, passes)) for model in models]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    made = [name for name in names if (out / f"{name}.trained.json").exists()]
    print(f"made {', '.join(made) or 'none'} of {', '.join(names)}")
    sys.exit(len(made) < len(names))


if __name__ == "__main__":
    main()
