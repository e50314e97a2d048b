"""Train a network on `glyphs` on a GPU host that has neither fonts nor a network, from an archive made elsewhere.

    tar -C results/glyphs -cf - data/index.json data/train.tsv data/images | xz -2 > glyphs.tar.xz   (at the dataset)
    python3 tests/gpu/train_glyphs.py --archive glyphs.tar.xz --work /tmp/glyphs --out OUT    (on the GPU host)
        [--model LeViT-128S] [--stages unpack,train,score,calibrate,qat] [--training '{"epochs": 6}'] [--piece BYTES]
        [--in-memory]       one process decodes all images once, where /dev/shm is too small for processes that load

The recipes are config.yaml's, the work is done by the workflow's own scripts, and a stage that is
done is not repeated. OUT gets the checkpoints in pieces (`cat NAME.pth.* > NAME.pth`) and what was found as JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))

from configuration import checks  # noqa: E402

KEEPING = """import sys; sys.path.insert(0, {folder!r})
import {name}; from data import augment
augment.IN_MEMORY = 1 << 40
{name}.command().run({name}.run)"""


class Visit:
    def __init__(self, args):
        self.args, self.work, self.out = args, Path(args.work), Path(args.out)
        rows = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
        config = checks.load(rows, ROOT / "rules" / "schemas" / "config.schema.yaml").config  # with its defaults
        self.row, self.dataset = config["models"][args.model], config["datasets"]["glyphs"]
        self.training = {**self.dataset["training"], **json.loads(args.training)}
        self.precision = config["precisions"]["int8_qat"]
        self.precision["qat"].update(json.loads(args.qat))
        self.index, self.model = self.work / "data/index.json", self.work / "model.json"
        for folder in (self.work, self.out):
            folder.mkdir(parents=True, exist_ok=True)
        self.script("resolve", self.model, "--row", self.row, "--model", self.model)

    def script(self, name, made, *options):
        """Run a script of the workflow unless the file `made` is there; recipes become JSON."""
        if made.exists():
            return
        words = [json.dumps(option) if isinstance(option, dict) else str(option) for option in options]
        whole = ["-c", KEEPING.format(folder=str(SCRIPTS), name=name)]
        self.timed(name, [sys.executable, *(whole if self.args.in_memory else [str(SCRIPTS / f"{name}.py")]), *words])

    def timed(self, name, command):
        begin = time.monotonic()
        subprocess.run(command, check=True)
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)

    def unpack(self):
        if not self.index.exists():
            command = [sys.executable, "-m", "tarfile", "--extract", self.args.archive, str(self.work)]  # needs no xz
            self.timed("unpack", command)

    def train(self):
        made = self.work / "fp32.pth"
        options = ("--index", self.index, "--model", self.model, "--classes", self.dataset["classes"])
        options += ("--training", self.training, "--seed", "0", "--device", self.args.device)
        self.script("train", made, *options, "--checkpoint", made)
        self.give(made)

    def decoded(self, split):
        made = self.work / f"{split}.u8"
        options = ("--index", self.index, "--model", self.model, "--split", split)
        self.script("decode_split", made, *options, "--images", made)
        return made

    def score(self):
        made = self.out / "torch.json"
        options = ("--checkpoint", self.work / "fp32.pth", "--images", self.decoded("val"), "--index", self.index)
        options += ("--model", self.model, "--classes", self.dataset["classes"])
        self.script(
            "evaluate_torch", made, *options, "--split", "val", "--accuracy", made, "--logits", self.out / "torch.npy"
        )
        print(made.read_text(), flush=True)

    def calibrate(self):
        made = self.out / "calibration.json"
        options = ("--checkpoint", self.work / "fp32.pth", "--images", self.decoded("calib"))
        options += ("--model", self.model, "--classes", self.dataset["classes"])
        self.script("calibrate", made, *options, "--recipe", self.precision["calibration"], "--calibration", made)

    def qat(self):
        made = self.work / "qat.pth"
        options = ("--checkpoint", self.work / "fp32.pth", "--calibration", self.out / "calibration.json")
        options += ("--index", self.index, "--model", self.model, "--classes", self.dataset["classes"])
        options += ("--images", self.decoded("calib"))
        options += ("--augmentation", self.training, "--recipe", self.precision["qat"], "--seed", "0")
        self.script("train_qat", made, *options, "--device", self.args.device, "--qat", made)
        self.give(made)

    def give(self, path):
        """Copy a file to OUT in pieces."""
        content = path.read_bytes()
        for number, start in enumerate(range(0, len(content), self.args.piece)):
            (self.out / f"{path.name}.{number}").write_bytes(content[start : start + self.args.piece])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="LeViT-128S")
    parser.add_argument("--stages", default="unpack,train,score")
    parser.add_argument("--training", default="{}", help="JSON over the dataset's `training` row")
    parser.add_argument("--qat", default="{}", help="JSON over int8_qat's `qat` row")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--piece", type=int, default=15 << 20, help="bytes of the pieces that checkpoints come in")
    args = parser.parse_args()
    visit = Visit(args)
    for stage in args.stages.split(","):
        getattr(visit, stage)()


if __name__ == "__main__":
    main()
