"""Learned scales: LSQ (Esser et al. 2020, arXiv 1902.08153) on the quantizers that a backend placed.

A quantizer's scale is s = amax / 127: its calibrated value times a learned ratio that starts at 1, so that one learning
rate suits tensors of all magnitudes. Quantizers that read the same tensor share one ratio, as they share one Q/DQ pair
in the graph, before training and after.
"""

from typing import Any

import torch

from quantization import amax
from quantization.methods import QMAX, SMALLEST

inside = torch.ops.aten.hardtanh_backward  # (values, places, low, high) -> the values, 0 where a place is not between


class FakeQuantize(torch.autograd.Function):
    """LSQ's fake quantization as one node of autograd's graph, which works in place and saves one tensor.

    That tensor is the derivative of a value by the scale: its code less value / scale, or the code where it is clipped.
    """

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, scale: torch.Tensor, share: float) -> torch.Tensor:
        """Return the values quantized and dequantized, in the type of autocast's products, if any, or their own.

        scale: float32 [] or [O, 1, ...]; share: factor of the scale's gradient.
        """
        ratios = values.float().contiguous() / scale
        inner = inside(ratios, ratios, -QMAX - 1.5, QMAX + 0.5)
        codes = ratios.round_().clamp_(-QMAX - 1, QMAX)
        device, slopes = values.device.type, torch.sub(codes, inner, out=inner)
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else values.dtype
        ctx.save_for_backward(slopes.to(kind), scale)
        ctx.share, ctx.kind = share, values.dtype
        return codes.mul_(scale).to(kind)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Return the gradients of the values, 0 where they are clipped, and of the scale."""
        slopes, scale = ctx.saved_tensors
        rows = slopes.view(scale.numel(), -1), gradient.reshape(scale.numel(), -1)
        of_scale = torch.linalg.vecdot(*rows).view(scale.shape).float() * ctx.share
        return inside(gradient, slopes, -1, 1).to(ctx.kind), of_scale, None


class LearnedScale(torch.nn.Module):
    """Fake quantization with a learned range: of a weight [O, ...], or of activations [B, ...]."""

    def __init__(self, calibrated: torch.Tensor, readers: int = 1):
        """Start from a range: amax [] of a tensor, or [O, 1, ...] of the output channels of a weight.

        readers: quantizers in a network that each read the same tensor; it is quantized once for all of them.
        """
        super().__init__()
        self.register_buffer("calibrated", calibrated.detach().float().clone())
        self.ratio = torch.nn.Parameter(torch.ones_like(self.calibrated))
        self.readers, self._read, self._quantized = readers, None, None

    def amax(self) -> torch.Tensor:
        """Return the learned range, in the shape of the calibrated one."""
        return (self.calibrated * self.ratio).clamp(min=SMALLEST)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values quantized and dequantized; gradients pass through the rounding."""
        if values is not self._read:  # the first of its readers
            share = (values[0].numel() * QMAX) ** -0.5  # LSQ's 1 / sqrt(n Qmax), n a channel's or an image's
            self._read, self._left = values, self.readers
            self._quantized = FakeQuantize.apply(values, self.amax() / QMAX, share)
        quantized, self._left = self._quantized, self._left - 1
        if self._left == 0:
            self._read = self._quantized = None
        return quantized


class LearnedScales(torch.nn.ModuleList):
    """The scales of a quantized network while they are learned; the network stays the backend's own."""

    def __init__(self, model: torch.nn.Module, images: torch.Tensor):
        """Take over the quantizers of a calibrated network; images: float32 [N, 3, H, W], to find shared tensors."""
        groups = [[quantizer] for name, quantizer in amax.quantizers(model).items() if name.endswith(amax.WEIGHT)]
        self.groups = groups + _by_input(model, images)
        super().__init__(LearnedScale(group[0].amax, len(group)) for group in self.groups)
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
