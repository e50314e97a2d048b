"""Supervised training of a classifier, in one process or several; a killed job continues after its last epoch."""

import contextlib
import fnmatch
import itertools
from typing import Any

import torch
import torch.nn.functional as F

from core.files import UserError
from data import augment
from model import context, parallel, synced_batchnorm, training
from model.resume import Resume

DEFAULTS = {"small_epochs": 0, "small_size": 1.0, "smoothing": 0.0, "betas": [0.9, 0.999], "flip": 0.0, "freeze": []}


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


class Trainer:
    """Trains one network; every process has one, and its state is saved after each epoch."""

    def __init__(
        self,
        model: torch.nn.Module,
        images: augment.TrainImages,
        recipe: dict,
        seed: int,
        row: dict,
        device: torch.device,
    ) -> None:
        """Prepare. model: on the device; recipe: the dataset's `training` row; row: of `models`."""
        self.recipe = recipe = {**DEFAULTS, **recipe}
        self.model = model.to(memory_format=torch.channels_last)  # which convolutions are faster in
        self.images, self.seed, self.row, self.device = images, seed, row, device
        self.kind = context.product_type(device, recipe.get("compute"))
        self.frozen = freeze(model, recipe["freeze"])
        self.per_epoch = len(images) // recipe["batch"]
        groups = training.parameter_groups(model, recipe["weight_decay"])
        options = {name: recipe[name] for name in ("learning_rate", "warmup", "clip", "betas")}
        self.optimizer = training.Optimizer(groups, recipe["epochs"] * self.per_epoch, **options, kind=self.kind)

    def state(self) -> dict:
        """Return everything that an epoch changes, as tensors and plain values."""
        return {"model": self.model.state_dict(), **self.optimizer.state()}

    def restore(self, state: dict) -> None:
        """Restore what `state` returned."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.restore(state)

    def run(self, rank: int, processes: int, resume: Resume, bar: Any) -> None:
        """Train the remaining epochs: AdamW, mean cross-entropy of the heads; rank: of this process; bar: of tqdm."""
        saved = resume.load()
        if saved:
            self.restore(saved)
            bar.update(saved["epochs"] * len(self.images))
        self._train_mode()
        first = saved["epochs"] if saved else 0
        model = self.model
        if processes > 1:
            model = parallel.averaged(model)
        loader = training.batches(self.images, self._draws(first, rank, processes), self.row, self.device)
        with synced_batchnorm.synced(processes), contextlib.closing(loader) as batches:
            for epoch in range(first, self.recipe["epochs"]):
                torch.manual_seed(self.seed + 7919 * epoch + rank)  # for dropout; images have their own seeds
                self._resize(self._size_at(epoch))
                for inputs, labels in itertools.islice(batches, self.per_epoch):
                    loss = self._step(model, inputs, labels, epoch)
                    bar.set_postfix_str(f"epoch {epoch + 1}/{self.recipe['epochs']} loss {loss:.3f}", refresh=False)
                    bar.update(len(labels) * processes)
                if rank == 0:
                    resume.save({"epochs": epoch + 1, **self.state()})
        self.optimizer.finish()
        self._resize(self.row["size"])

    def _train_mode(self):
        """Set training mode, with a loss for each head of a distilled network; frozen BatchNorms stay in eval mode."""
        self.model.train()
        for norm in self.frozen:
            norm.eval()
        if hasattr(self.model, "set_distilled_training"):
            self.model.set_distilled_training(True)

    def _step(self, model, inputs, labels, epoch):
        with training.autocast(self.device, self.kind):
            outputs = model(inputs)
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(head.float(), labels, label_smoothing=self.recipe["smoothing"]) for head in heads]
        loss = sum(losses) / len(losses)
        diverged = f"training diverged in epoch {epoch + 1}: lower its learning_rate or raise warmup"
        return self.optimizer.step(loss, diverged)

    def _draws(self, first, rank, processes):
        """Yield the Draws of this process in each batch, from an epoch on."""
        for epoch in range(first, self.recipe["epochs"]):
            batch = self.recipe["batch"]
            order = augment.order(len(self.images), self.seed, epoch)[: self.per_epoch * batch]
            yield from augment.shares(order, batch, epoch, self._size_at(epoch), rank, processes)

    def _size_at(self, epoch):
        """Return an epoch's image size: small images teach early epochs nearly as much, in a fraction of the time."""
        if epoch >= self.recipe["small_epochs"] or not training.resizable(self.model):
            return self.row["size"]
        stride = self.model.stem.stride
        return max(1, int(self.row["size"] * self.recipe["small_size"]) // stride) * stride

    def _resize(self, size):
        if self.recipe["small_epochs"] and training.resizable(self.model):
            training.set_size(self.model, size)
