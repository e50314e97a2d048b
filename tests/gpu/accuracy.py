"""Train from scratch on one GPU or several, one network for each seed, and score each: the workflow's own commands.

python3 tests/gpu/accuracy.py DATA OUT.json cpu|cuda PROCESSES SEED,SEED [--model LeViT-128S] [--dataset digits]
    [--training '{"epochs": 6}']

DATA has index.json and images/ of the dataset; the recipe is its row of config.yaml, with --training over it. OUT.json
has each seed's top-1, and the images a second of its epochs at full size. With --together all train at the same time.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scaling
import yaml

ROOT, THREADS = Path(__file__).resolve().parents[2], 8
sys.path.insert(0, str(ROOT / "workflow_scripts"))

from configuration import checks  # noqa: E402


def command(name, **options):
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return [sys.executable, str(ROOT / f"workflow_scripts/{name}.py"), *words]


def settings(args):
    """Return the model's and the dataset's rows of config.yaml, with their defaults."""
    rows = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    config = checks.load(rows, ROOT / "rules/schemas/config.schema.yaml").config
    return config["models"][args.model], config["datasets"][args.dataset]


class Trainings:
    """The trainings of one dataset."""

    def __init__(self, args, work):
        self.args, self.work = args, work
        row, self.dataset = settings(args)
        self.training = {**self.dataset["training"], **json.loads(args.training)}
        self.files = {"index": args.data / "index.json", "model": work / "model.json"}
        subprocess.run(command("resolve", row=json.dumps(row), model=self.files["model"]), check=True)
        subprocess.run(command("decode_split", **self.files, split="val", images=work / "val.u8"), check=True)

    def run(self, seeds):
        """Train one network for each seed; return the images a second of each one's last epochs."""
        with concurrent.futures.ThreadPoolExecutor(len(seeds) if self.args.together else 1) as pool:
            return dict(zip(seeds, pool.map(self.train, seeds)))

    def train(self, seed):
        made, count = self.work / f"{seed}.pth", json.loads(self.files["index"].read_text())["train"]["images"]
        options = {"device": self.args.device, "processes": self.args.processes, "threads": THREADS}
        options.update(self.files, classes=self.dataset["classes"], training=json.dumps(self.training))
        child = subprocess.Popen(command("train", **options, seed=seed, checkpoint=made))
        ends = scaling.epochs(made, child)
        if child.returncode:
            sys.exit(child.returncode)
        full = list(zip(ends, ends[1:]))[max(1, self.training["small_epochs"]) :]
        return [round(count / (end - begin)) for begin, end in full]

    def top1(self, seed):
        found = self.work / "accuracy.json"
        options = {**self.files, "classes": self.dataset["classes"], "split": "val", "images": self.work / "val.u8"}
        options.update(checkpoint=self.work / f"{seed}.pth", accuracy=found, logits=self.work / "logits.npy")
        subprocess.run(command("evaluate_torch", **options), check=True)
        return json.loads(found.read_text())["top1"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("device")
    parser.add_argument("processes", type=int)
    parser.add_argument("seeds")
    parser.add_argument("--model", default="LeViT-128S")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--training", default="{}", help="JSON over the dataset's `training` row")
    parser.add_argument("--together", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trainings, seeds = Trainings(args, Path(name)), args.seeds.split(",")
        begin, speeds = time.monotonic(), trainings.run(seeds)
        seconds = round(time.monotonic() - begin, 1)
        found = {key: getattr(args, key) for key in ("device", "processes", "model", "dataset")}
        found.update(training=trainings.training, seconds=seconds, images_per_s=speeds)
        found.update(top1={seed: trainings.top1(seed) for seed in seeds})
    args.out.write_text(json.dumps(found, indent=1))
    print(found)


if __name__ == "__main__":
    main()
