"""Learned scales: LSQ (Esser et al. 2020, arXiv 1902.08153) on the quantizers that a backend placed.

A quantizer's scale is s = amax / 127, here its calibrated value times a learned ratio that starts at 1, so that one
learning rate suits tensors of all magnitudes. Quantizers that read one tensor share one ratio: they have one Q/DQ pair
in the graph, before training and after.
"""

import torch

from quantization import amax
from quantization.methods import QMAX, SMALLEST


class LearnedScale(torch.nn.Module):
    """Fake quantization of float32 tensors with a learned range: of a weight [O, ...], or of activations [B, ...]."""

    def __init__(self, calibrated):
        """Start from a range: amax [] of a tensor, or [O, 1, ...] of the output channels of a weight."""
        super().__init__()
        self.register_buffer("calibrated", calibrated.detach().float().clone())
        self.ratio = torch.nn.Parameter(torch.ones_like(self.calibrated))

    def amax(self):
        return (self.calibrated * self.ratio).clamp(min=SMALLEST)

    def forward(self, values):
        share = (values[0].numel() * QMAX) ** -0.5  # LSQ's gradient scale 1 / sqrt(n Qmax), n a channel's or an image's
        scale = self.amax() / QMAX
        scale = scale * share + (scale * (1 - share)).detach()
        inside = (values / scale).clamp(-QMAX - 1, QMAX)
        return (inside + (inside.round() - inside).detach()) * scale


class LearnedScales(torch.nn.ModuleList):
    """A quantized network's scales while they are learned; the network stays the backend's own."""

    def __init__(self, model, images):
        """Take over the quantizers of a network with ranges; images: float32 [N, 3, H, W], to see who reads what."""
        groups = [[quantizer] for name, quantizer in amax.named(model).items() if name.endswith(amax.WEIGHT)]
        self.groups = groups + _by_input(model, images)
        super().__init__(LearnedScale(group[0].amax) for group in self.groups)
        for scale, group in zip(self, self.groups):
            for quantizer in group:
                quantizer.forward = scale.forward

    def release(self):
        """Give the quantizers the ranges that were learned, and their own forward."""
        for scale, group in zip(self, self.groups):
            for quantizer in group:
                del quantizer.forward
                quantizer.amax = scale.amax().detach()


@torch.no_grad()
def _by_input(model, images):
    """Return lists of quantizers of activations, those together that read the same tensor."""
    readers, kept = {}, []  # kept: a tensor that lives keeps its id

    def watch(quantizer, inputs):
        kept.append(inputs[0])
        readers.setdefault(id(inputs[0]), []).append(quantizer)

    hooks = [quantizer.register_forward_pre_hook(watch) for quantizer in amax.activations(model).values()]
    with amax.unquantized(model):
        model(images)
    for hook in hooks:
        hook.remove()
    return list(readers.values())
