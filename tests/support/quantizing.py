"""What the tests of quantization share: a small network, random images, and commands run in this process."""

import copy
import importlib
import json
import os

import torch
from test_graph import CLASSES, ROW, SIZE, deployed, trained_like

from core.command import Job
from described import USUAL, model_file
from model import checkpoint
from quantization import backends, calibrator

VISION = {**USUAL, **ROW, "mean": [0.5] * 3, "std": [0.25] * 3}


def random_images(count=24, seed=3):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def calibrated(folded, images, **row):
    """Return (calibration, quantized network with its ranges) of a recipe; by default of the method max."""
    return calibrator.Calibrator(copy.deepcopy(folded), images).calibrate({"method": "max", **row})


def quantized(folded):
    """Return a copy of a folded network with quantizers, without ranges."""
    return backends.add(copy.deepcopy(folded), {})


class Digits:
    """Runs the commands, in this process, on digits at 64 px in one folder."""

    def __init__(self, folder):
        self.folder = folder
        row = {"builtin": "digits", "classes": CLASSES, "splits": {"calib": 64, "select": 100}}
        beside = {"train_images": self["train.tsv"], "seen": self["seen.txt"], "images_root": self["images"]}
        self.run("index_dataset", dataset=row, seed=0, index=self["index.json"], **beside)
        self.model = model_file(folder, VISION)
        for split in ("calib", "select"):
            self.run(
                "decode_split",
                **{"index": self["index.json"], "model": self.model, "split": split, "images": self[f"{split}.u8"]},
            )
        self.network = trained_like()
        checkpoint.save(self.network.state_dict(), self["m.pth"])

    def __getitem__(self, name):
        return str(self.folder / name)

    def folded(self):
        return deployed(self.network)

    def run(self, script, **options):
        module = importlib.import_module(script)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
        args = [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]
        command = module.command()
        job = command.parser.parse_args(args, Job())
        partials = job._begin(command.outputs, command.key_parts(job))
        module.run(job)
        for name, path in partials.items():
            os.replace(path, job.final(name))

    def calibrate(self, name, images=64, **row):
        self.run(
            "calibrate",
            **{"checkpoint": self["m.pth"], "images": self["calib.u8"], "model": self.model, "classes": CLASSES},
            **{"recipe": {"method": "max", "images": images, **row}, "calibration": self[name], "threads": "1"},
            **({"imported": row["import"]} if "import" in row else {}),
        )
        return json.loads((self.folder / name).read_text())
