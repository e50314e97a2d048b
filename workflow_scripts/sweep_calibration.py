"""Choose a calibration recipe: quantize the network with each candidate, and score it on the select split.

The choice has the least KL divergence from the logits of the FP32 network, which separates recipes long before a few
hundred images change their top-1. The output has top-1, agreement and largest error of each candidate too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core import progress, resolved
from core.command import Command, Job, log
from core.files import write_json
from data import index

if TYPE_CHECKING:
    import numpy as np
    import torch

REPORTED = ("top1", "agreement_with_fp32", "max_abs_logit_error")


def run(args: Job) -> None:
    from model import checkpoint, deploy, equivalence, training, zoo
    from quantization import calibration_images
    from quantization.calibrator import Calibrator, format_recipe

    training.start(0, args.threads, "cpu")
    row = resolved.read(args.model, resolved.VISION)
    labels = index.labels(index.read(args.index), "select")
    pixels = calibration_images.CalibrationImages(args.images, args.recipe["images"], row)
    split = calibration_images.CalibrationImages(args.select, len(labels), row)
    source = checkpoint.load_into(zoo.create(row, args.classes), args.checkpoint)
    model = deploy.fold(source, equivalence.images(args.images, row))
    calibrator, reference, candidates = Calibrator(model, pixels), logits(model, split), []
    for candidate in progress.over(args.recipe["candidates"], "sweep", "recipe"):
        candidates.append({"recipe": candidate, **judge(calibrator.calibrate(candidate)[1], split, labels, reference)})
        log.info("%-60s KL %.6f top-1 %.2f %%", format_recipe(candidate), candidates[-1]["kl"], candidates[-1]["top1"])
    top1 = judge(model, split, labels, reference)["top1"]
    write_json(args.sweep, summary(candidates, len(pixels), len(labels), top1))


def logits(model: torch.nn.Module, images: Any) -> torch.Tensor:
    """Return a network's float32 logits [N, classes] of all images."""
    import torch

    from quantization.histograms import BATCH

    with torch.no_grad():
        return torch.cat([model(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])


def judge(network: torch.nn.Module, images: Any, labels: np.ndarray, reference: torch.Tensor) -> dict[str, Any]:
    """Return a network's figures on images, against labels int64 [N] and the FP32 network's logits [N, classes]."""
    from measure import accuracy
    from quantization.distillation import divergence

    predictions = logits(network, images)
    scores = accuracy.score(predictions.numpy(), labels, reference.numpy())
    kl = max(divergence(predictions.double(), reference.double()).item(), 0.0)
    return {"kl": kl, "net_lost": scores["paired_with_fp32"]["net_lost"], **{k: scores[k] for k in REPORTED}}


def summary(candidates: list[dict], images: int, judged: int, top1: float) -> dict[str, Any]:
    """Return the sweep's output: candidates by ascending divergence, the first of which is chosen, and why."""
    table = sorted(candidates, key=lambda row: (row["kl"], -row["top1"], len(row["recipe"])))
    why = (
        f"least KL divergence from FP32 of {len(table)} candidates on {judged} images of select "
        f"({table[0]['kl']:.2e}; the last has {table[-1]['kl']:.2e})"
    )
    return {
        "split": "select",
        "num_images": judged,
        "calibration_images": images,
        "fp32_top1": top1,
        "chosen": table[0]["recipe"],
        "why": why,
        "candidates": table,
    }


def command() -> Command:
    c = Command(__file__, __doc__, tools=("torch", "timm", "nvidia-modelopt", "numpy"), heavy=True)
    c.input("--checkpoint").input("--images", help="preprocessed calib split (.u8)")
    c.input("--select", help="preprocessed select split (.u8)")
    c.input("--index", help="index.json of the dataset", content=lambda args: index.relevant(args.index, "select"))
    c.model(resolved.VISION).param("--classes", type=int, required=True)
    c.json_param("--recipe", help="JSON: images, candidates (recipes)")
    return c.output("--sweep").untracked("--threads", type=int, default=0)


if __name__ == "__main__":
    command().run(run)
