"""Quantization-aware training: a quantized student learns the logits and block outputs of the FP32 network."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from data import augment
from model import deploy, training
from model.training_loop import TrainingLoop
from quantization.distillation import divergence
from quantization.lsq import LearnedScales


class Observed(nn.Module):
    """A network that returns (logits [B, classes], outputs of its blocks, each [B, N, C])."""

    def __init__(self, network: nn.Module, scales: LearnedScales | None = None):
        super().__init__()
        self.network = keep_images_exact(network).to(memory_format=torch.channels_last)
        self.scales, self._outputs = scales, []
        self._caching = [module for module in network.modules() if hasattr(module, "attention_bias_cache")]
        for module in network.modules():
            if isinstance(module, (deploy.Block, deploy.Downsample)):
                module.register_forward_hook(lambda _, __, output: self._outputs.append(output))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return (logits, block outputs) of float32 [B, 3, H, W]."""
        self._outputs.clear()
        for module in self._caching:  # timm keeps biases in eval mode, and with them the graph of the step before
            module.attention_bias_cache = {}
        return self.network(images), tuple(self._outputs)


def keep_images_exact(network: nn.Module) -> nn.Module:
    """Let a network's first convolution compute in float32 under autocast as well, in place, and return the network.

    The pixels of a flat background share one value; rounding it to bfloat16 would shift every logit.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.forward = functools.partial(_without_autocast, module.forward)
            return network
    return network


def _without_autocast(forward, images):
    with torch.autocast(images.device.type, enabled=False):
        return forward(images)


class EMA:
    """Exponential moving average of parameters; the first steps weigh more, so that it does not lag behind them."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.values = [parameter.detach().clone() for parameter in parameters] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after a step; steps count from 0."""
        if self.decay:
            torch._foreach_lerp_(self.values, self.parameters, 1 - min(self.decay, (step + 1) / (step + 10)))

    @torch.no_grad()
    def apply(self) -> None:
        """Copy the averages into the parameters."""
        for parameter, value in zip(self.parameters, self.values):
            parameter.copy_(value)


def loss_of(student: tuple, teacher: tuple, recipe: dict) -> torch.Tensor:
    """Return the scalar loss of (logits, features) against the teacher's: divergence + `features` * feature error.

    The feature error is the mean over blocks of the mean squared error, relative to the teacher's mean square. Networks
    other than LeViT have no such blocks.
    """
    loss = divergence(student[0], teacher[0], recipe["temperature"])
    if recipe["features"] and teacher[1]:
        pairs = [(a.float(), b.float()) for a, b in zip(student[1], teacher[1])]
        errors = [F.mse_loss(a, b) / b.square().mean() for a, b in pairs]
        loss = loss + recipe["features"] * torch.stack(errors).mean()
    return loss


class QatTrainer(TrainingLoop):
    """Trains a student by AdamW: warm-up then cosine, clipped gradients."""

    PREFIX, EVERY = "qat ", 200

    def __init__(self, teacher: nn.Module, student: nn.Module, images: augment.TrainImages, recipe: dict, row: dict):
        """Prepare. teacher, student: folded networks on one device, the student calibrated; recipe: the `qat` row."""
        super().__init__(student, images, recipe, row)
        scales = self._scales(student) if recipe["scales"] == "learned" else None
        self.teacher, self.model = Observed(teacher), Observed(student, scales)
        groups = [{"params": list(student.parameters()), "weight_decay": 0.0}]
        if scales is not None:
            rate = recipe["scale_learning_rate"]
            groups.append({"params": list(scales.parameters()), "weight_decay": 0.0, "lr": rate})
        self.optimizer = training.Optimizer(groups, self.steps, recipe, self.kind)
        self.ema = EMA(self.optimizer.parameters, recipe["ema"])

    def _scales(self, student):
        first = augment.order(len(self.images), self.images.seed, "scales")[:2]
        draws = augment.shares(first, 2, 0, self.row["size"])
        inputs, _ = next(training.batches(self.images, draws, self.row, self.device, workers=0))
        return LearnedScales(student, inputs).to(self.device)

    def state(self) -> dict:
        """Return everything that a step changes, as tensors and plain values."""
        parameters = [parameter.detach() for parameter in self.optimizer.parameters]
        return {"parameters": parameters, "ema": self.ema.values, **self.optimizer.state()}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Restore what `state` returned."""
        for tensors, saved in ((self.optimizer.parameters, state["parameters"]), (self.ema.values, state["ema"])):
            for tensor, value in zip(tensors, saved):
                tensor.copy_(value)
        self.optimizer.restore(state)

    def run(self, *arguments: Any) -> None:
        """Train as TrainingLoop does; the student then has the averaged weights and the learned ranges."""
        super().run(*arguments)
        self.ema.apply()
        if self.model.scales is not None:
            self.model.scales.release()

    def step(self, inputs: torch.Tensor, labels: torch.Tensor, step: int) -> float:
        """Take a step towards the teacher's outputs and return a loss, as Optimizer.step does; labels are not used."""
        with training.autocast(self.device, self.kind):
            with torch.no_grad():
                target = self.teacher(inputs)
            outputs = self.model(inputs)
        diverged = f"QAT diverged in epoch {step // self.per_epoch + 1}: lower qat.learning_rate"
        known = self.optimizer.step(loss_of(outputs, target, self.recipe), diverged)
        self.ema.update(step)
        return known
