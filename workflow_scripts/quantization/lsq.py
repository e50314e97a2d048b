"""Learned scales: LSQ (Esser et al. 2020, arXiv 1902.08153) on the quantizers that a backend placed.

A quantizer's scale is s = amax / 127: its calibrated value times a learned ratio that starts at 1, so that one learning
rate suits tensors of all magnitudes. Quantizers that read the same tensor share one ratio, as they share one Q/DQ pair
in the graph, before training and after.
"""

import torch

from quantization import amax
from quantization.methods import QMAX, SMALLEST


class LearnedScale(torch.nn.Module):
    """Fake quantization of float32 tensors with a learned range: of a weight [O, ...], or of activations [B, ...]."""

    def __init__(self, calibrated: torch.Tensor):
        """Start from a range: amax [] of a tensor, or [O, 1, ...] of the output channels of a weight."""
        super().__init__()
        self.register_buffer("calibrated", calibrated.detach().float().clone())
        self.ratio = torch.nn.Parameter(torch.ones_like(self.calibrated))

    def amax(self) -> torch.Tensor:
        """Return the learned range, in the shape of the calibrated one."""
        return (self.calibrated * self.ratio).clamp(min=SMALLEST)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values quantized and dequantized; gradients pass through the rounding."""
        share = (values[0].numel() * QMAX) ** -0.5  # LSQ's gradient scale 1 / sqrt(n Qmax), n a channel's or an image's
        scale = self.amax() / QMAX
        scale = scale * share + (scale * (1 - share)).detach()
        inside = (values / scale).clamp(-QMAX - 1, QMAX)
        return (inside + (inside.round() - inside).detach()) * scale


class LearnedScales(torch.nn.ModuleList):
    """The scales of a quantized network while they are learned; the network stays the backend's own."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor):
        """Take over the quantizers of a calibrated network; images: float32 [N, 3, H, W], to find shared tensors."""
        groups = [[quantizer] for name, quantizer in amax.quantizers(model).items() if name.endswith(amax.WEIGHT)]
        self.groups = groups + _by_input(model, images)
        super().__init__(LearnedScale(group[0].amax) for group in self.groups)
        for scale, group in zip(self, self.groups):
            for quantizer in group:
                quantizer.forward = scale.forward

    def release(self) -> None:
        """Give the quantizers the learned ranges, and back their own forward."""
        for scale, group in zip(self, self.groups):
            for quantizer in group:
                del quantizer.forward
                quantizer.amax = scale.amax().detach()


@torch.no_grad()
def _by_input(model, images):
    """Return lists of the quantizers of activations that read the same tensor."""
    quantizers, readers, alive = amax.activations(model), {}, []  # ids are unique among tensors that are alive

    def observe(name, tensor):
        alive.append(tensor)
        readers.setdefault(id(tensor), []).append(quantizers[name])

    with amax.observed(model, observe):
        model(images)
    return list(readers.values())
