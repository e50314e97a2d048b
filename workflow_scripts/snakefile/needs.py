"""What a job needs besides its cores: memory, time and disk, scaled by its rows, and whether a GPU makes it faster.

From peaks of LeViT-128S on digits on one core (docs/cluster.md): memory and half as much again, five times the time or
more, since a node may be slow or busy. A second attempt gets twice the memory and the time, a third thrice.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from configuration.tables import SCORED, Tables
from snakefile import nodes

COST = {"levit_128s": 1.0, "levit_128": 1.3, "levit_192": 2.1, "levit_256": 3.6, "levit_384": 7.7}  # FLOPs over 128S's
UNKNOWN = 8.0  # the same of any other network
SIDE = 224  # pixels that COST is at
GPU_SPEED = 20.0  # images a second of a GPU over those of a core: low, so that none is stopped too early
BYTES = 70  # of an image's line in train.tsv, for datasets whose images are not counted yet
EACH_CLASS = 1300  # training images, the same for datasets without an index: as in ImageNet
BUILTIN = 2000  # images of a builtin dataset that is not drawn


class Need(NamedTuple):
    """A rule's need: MB of memory, minutes, MB of disk, each besides what a thousand images add; whether a GPU helps.

    images: a function of the tables and wildcards that gives how many images a job goes over, as LeViT-128S would.
    """

    mem_mb: int = 1000
    minutes: float = 5
    disk_mb: int = 100
    images: Callable = lambda tables, w: 0
    mem_mb_each: float = 0  # of a thousand images
    minutes_each: float = 0
    disk_mb_each: float = 0
    gpu: bool = False


def trained_images(tables: Tables, w: Any) -> int:
    """Return about how many training images a dataset has."""
    row, index = tables.row("dataset", w.dataset), f"results/{w.dataset}/data/train.tsv"
    if os.path.exists(index):
        return os.path.getsize(index) // BYTES
    if "drawing" in row:
        return row["drawing"]["train"] * row["classes"]
    return BUILTIN if "builtin" in row else row["classes"] * EACH_CLASS


def split_images(tables: Tables, w: Any) -> int:
    """Return about how many images the split of a job has; as many as a twentieth of the training images for val."""
    split = getattr(w, "split", None) or SCORED.get(getattr(w, "scores", ""), "val")
    sizes = tables.row("dataset", w.dataset)["splits"]
    return sizes.get(split) or max(BUILTIN, trained_images(tables, w) // 20)


def cost(tables: Tables, w: Any) -> float:
    """Return the FLOPs of a model for an image over those of LeViT-128S at 224 pixels."""
    row = tables.row("model", w.model)
    size = row.get("size") or SIDE
    height, width = size if isinstance(size, list) else (size, size)
    return COST.get(row["timm"], UNKNOWN) * height * width / SIDE**2


def _training(tables, w):
    return tables.row("dataset", w.dataset)["training"]["epochs"] * trained_images(tables, w) * cost(tables, w)


def _distillation(tables, w):
    row = tables.row("precision", w.precision).get("qat", {})
    several = row["steps"] * row["batch"] if row.get("steps") else row.get("epochs", 1) * trained_images(tables, w)
    return several * cost(tables, w)


def _calibration(tables, w):
    row = tables.row("precision", w.precision).get("calibration", {})
    return row.get("images", 0) * max(1, len(row.get("candidates", ()))) * cost(tables, w)


def _choice(tables, w):
    """Return the images of a search: the select split, once for each node that it may put back."""
    return tables.row("dataset", w.dataset)["splits"]["select"] * cost(tables, w)


def _scored(tables, w):
    return split_images(tables, w) * cost(tables, w)


SMALL = Need()  # of a rule that is not named here
OF_RULES = {
    "index_dataset": Need(1000, 10, 500, trained_images, 2, 0.2, 0.1),
    "decode_split decode_shard join_shards": Need(1000, 5, 100, split_images, 0, 1, 150),
    "train": Need(3000, 10, 500, _training, 0, 1.5, 0, gpu=True),
    "evaluate_torch evaluate_onnx evaluate_typed evaluate_engine": Need(2500, images=_scored, minutes_each=2),
    "export_onnx export_program quantize_onnx type_onnx": Need(2000),
    "sweep_calibration calibrate": Need(3000, 10, 100, _calibration, 0, 8, 0),
    "plan_precision": Need(3000, 20, 100, _choice, 0, 40, 0, gpu=True),
    "train_qat": Need(3000, 10, 500, _distillation, 0, 6, 0, gpu=True),
    "quantize_nncf": Need(4000, 20),
    "export_cache": Need(3000, 10),
    "build_plugin": Need(3000, 20),
    "build_engine": Need(4000, 30),
    "bisect_precision": Need(4000, 240),
    "benchmark paired_benchmark compare_pytorch run_trtexec profile_engine capture_nsys bundle": Need(2500, 10),
}
NEEDS = {rule: need for rules, need in OF_RULES.items() for rule in rules.split()}


def of(rule: str, tables: Tables) -> dict[str, Callable]:
    """Return the resources of a rule, each a function of wildcards and attempt; `runtime` is in minutes."""
    need = NEEDS.get(rule, SMALL)
    speed = GPU_SPEED if need.gpu and nodes.gpus(tables) else 1

    def scaled(start, each):
        images = need.images if each else lambda tables, w: 0
        return lambda wildcards, attempt: int((start + each * images(tables, wildcards) / 1000) * attempt)

    return {
        "mem_mb": scaled(need.mem_mb, need.mem_mb_each),
        "runtime": scaled(need.minutes, need.minutes_each / speed),
        "disk_mb": scaled(need.disk_mb, need.disk_mb_each),
    }
