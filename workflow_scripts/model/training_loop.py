"""The steps of a training on images, in one process or several; a killed job continues after its last saved step."""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from data import augment
from model import context, parallel, synced_batchnorm, training
from model.resume import Resume


class TrainingLoop:
    """A training, of which every process has one; subclasses have the optimizer, the step, and the state to save."""

    PREFIX = ""  # of an epoch's number, with which the order of its images is seeded
    EVERY = 0  # steps between saved states, besides the end of each epoch
    optimizer: training.Optimizer
    step: Callable[..., float]
    state: Callable[[], dict]
    restore: Callable[[dict], None]

    def __init__(self, model: torch.nn.Module, images: augment.TrainImages, recipe: dict, row: dict) -> None:
        """Prepare. model: on its device; recipe: {batch, micro_batch?, epochs or steps, compute?, ...}.

        row: of `models`.
        """
        self.model, self.images, self.recipe, self.row = model, images, recipe, row
        self.device = next(model.parameters()).device
        self.kind = context.product_type(self.device, recipe.get("compute"))
        self.per_epoch = len(images) // recipe["batch"]
        self.steps = recipe.get("steps") or recipe["epochs"] * self.per_epoch
        self.epochs = -(-self.steps // self.per_epoch)

    def run(self, rank: int, processes: int, resume: Resume, bar: Any) -> None:
        """Take the remaining steps; rank: of this process among those that average gradients; bar: of tqdm."""
        saved, batch = resume.load(), self.recipe["batch"]
        first = saved["step"] if saved else 0
        if saved:
            self.restore(saved)
            bar.update(first * batch)
        draws = itertools.chain(self._draws(first, rank, processes), self.last_draws(rank, processes))
        with contextlib.closing(training.batches(self.images, draws, self.row, self.device)) as batches:
            parallel.connect(processes, self.device)
            if processes > 1:
                parallel.average_gradients(self.optimizer)
            with synced_batchnorm.synced(context.micro_batches(self.recipe), processes):
                for step in range(first, self.steps):
                    epoch, done = step // self.per_epoch, step + 1
                    if step % self.per_epoch == 0:
                        self.begin(epoch, rank)
                    loss = self.step(*next(batches), step)
                    bar.set_postfix_str(f"epoch {epoch + 1}/{self.epochs} loss {loss:.5f}", refresh=False)
                    bar.update(batch)
                    if rank == 0 and (done % self.per_epoch == 0 or (self.EVERY and done % self.EVERY == 0)):
                        resume.save({"step": done, **self.state()})
            self.optimizer.finish()
            self.end(_inputs(batches, bar, processes))

    def _draws(self, first, rank, processes):
        """Yield the Draws of this process in each batch, from a step on."""
        batch, count = self.recipe["batch"], len(self.images)
        for epoch in range(first // self.per_epoch, self.epochs):
            order = augment.order(count, self.images.seed, f"{self.PREFIX}{epoch}")
            begin, end = (min(max(step - epoch * self.per_epoch, 0), self.per_epoch) for step in (first, self.steps))
            part = order[begin * batch : end * batch]
            yield from augment.shares(part, batch, epoch, self.size_at(epoch), rank, processes)

    def last_draws(self, rank: int, processes: int) -> Iterable[list[augment.Draw]]:
        """Return the Draws of this process in batches after the last step."""
        return ()

    def size_at(self, epoch: int) -> int:
        """Return the size of an epoch's images."""
        return self.row["size"]

    def begin(self, epoch: int, rank: int) -> None:
        """Prepare the network for an epoch."""

    def end(self, inputs: Iterable[torch.Tensor]) -> None:
        """Finish the network after the last step; inputs: of `last_draws`, float32 [N, 3, S, S]."""


def _inputs(batches, bar, processes):
    for inputs, labels in batches:
        yield inputs
        bar.update(len(labels) * processes)
