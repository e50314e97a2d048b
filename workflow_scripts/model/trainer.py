"""Supervised training of a classifier; a killed job continues after its last epoch."""

import fnmatch
import itertools
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from core.files import UserError
from data import augment
from model import training
from model.training_loop import TrainingLoop

DEFAULTS = {"small_epochs": 0, "small_size": 1.0, "smoothing": 0.0, "flip": 0.0, "freeze": []}


def freeze(model: torch.nn.Module, patterns: list[str]) -> list[torch.nn.Module]:
    """Freeze the parameters whose names match a shell pattern; return the BatchNorms without trainable parameters.

    Raises UserError if a pattern matches nothing, or if nothing is left to train.
    """
    names = dict(model.named_parameters())
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            tops = sorted({f"{name.partition('.')[0]}.*" for name in names})
            raise UserError(f"training.freeze: {pattern!r} matches none of {', '.join(tops)}")
        for name in matches:
            names[name].requires_grad_(False)
    if not any(value.requires_grad for value in names.values()):
        raise UserError(f"training.freeze {patterns} leaves nothing to train")
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if not any(value.requires_grad for value in norm.parameters())]


class Trainer(TrainingLoop):
    """Trains a network by AdamW on the mean cross-entropy of its heads."""

    def __init__(self, model: torch.nn.Module, images: augment.TrainImages, recipe: dict, row: dict) -> None:
        """Prepare. model: on its device; recipe: the dataset's `training` row; row: of `models`."""
        recipe = {**DEFAULTS, **recipe}
        super().__init__(model.to(memory_format=torch.channels_last), images, recipe, row)  # faster for convolutions
        self.frozen = freeze(model, recipe["freeze"])
        groups = training.parameter_groups(model, recipe["weight_decay"])
        self.optimizer = training.Optimizer(groups, self.steps, recipe, self.kind)

    def state(self) -> dict:
        """Return everything that an epoch changes, as tensors and plain values."""
        return {"model": self.model.state_dict(), **self.optimizer.state()}

    def restore(self, state: dict) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.restore(state)

    def last_draws(self, rank: int, processes: int) -> Iterable[list[augment.Draw]]:
        """Return the Draws of all images under evaluation preprocessing; processes take whole batches in turn."""
        order = augment.order(len(self.images), self.images.seed, augment.CLEAN)
        draws = augment.shares(order, self.recipe["batch"], augment.CLEAN, self.row["size"])
        return itertools.islice(draws, rank, None, processes)

    def end(self, inputs: Iterable[torch.Tensor]) -> None:
        """Estimate BatchNorm statistics on images of the network's own size."""
        self._resize(self.row["size"])
        training.recalibrate_batchnorm(self.model, inputs, self.frozen)

    def begin(self, epoch: int, rank: int) -> None:
        """Set training mode, with a loss for each head of a distilled network; frozen BatchNorms stay in eval mode."""
        torch.manual_seed(self.images.seed + 7919 * epoch + rank)  # for dropout; images have their own seeds
        self._resize(self.size_at(epoch))
        self.model.train()
        for norm in self.frozen:
            norm.eval()
        if hasattr(self.model, "set_distilled_training"):
            self.model.set_distilled_training(True)

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, step: int) -> float:
        """Take a step and return a loss, as Optimizer.step does."""
        with training.autocast(self.device, self.kind):
            outputs = self.model(inputs)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(head.float(), labels, label_smoothing=self.recipe["smoothing"]) for head in heads]
        diverged = f"training diverged in epoch {step // self.per_epoch + 1}: lower its learning_rate or raise warmup"
        return self.optimizer.step(sum(losses) / len(losses), diverged)

    def size_at(self, epoch: int) -> int:
        """Return an epoch's image size: small images teach early epochs nearly as much, in a fraction of the time."""
        if epoch >= self.recipe["small_epochs"] or not training.resizable(self.model):
            return self.row["size"]
        stride = self.model.stem.stride
        return max(1, int(self.row["size"] * self.recipe["small_size"]) // stride) * stride

    def _resize(self, size):
        if self.recipe["small_epochs"] and training.resizable(self.model):
            training.set_size(self.model, size)
