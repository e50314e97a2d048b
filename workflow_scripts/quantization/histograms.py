"""What calibration knows of activations: one pass over the images serves every method of choosing ranges."""

import math

import torch

from core.files import UserError
from quantization import amax

BINS = 4096  # of a histogram; the upper half is in use at least
BATCH = 32


class Histogram:
    """Magnitudes of one activation: how many lie in each of BINS equal bins from 0 to `span`, a power of two.

    lowest, highest: of the values themselves; channels: largest magnitude of each channel.
    """

    def __init__(self):
        self.counts, self.span = torch.zeros(BINS, dtype=torch.float64), 0.0
        self.lowest, self.highest, self.channels = math.inf, -math.inf, torch.zeros(1)

    @property
    def largest(self):
        """Return the largest magnitude seen."""
        return max(-self.lowest, self.highest)

    def add(self, values, channels):
        """Count a float32 tensor; channels: its dimensions that stay apart in `channels`."""
        low, high = (bound.item() for bound in values.aminmax())
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        if not math.isfinite(low + high) or not self.largest:
            return
        magnitudes = values.abs()
        others = [dim for dim in range(values.ndim) if dim not in channels]
        self.channels = torch.maximum(self.channels, magnitudes.amax(dim=others))
        self.span = self.span or 2.0 ** math.ceil(math.log2(self.largest))
        while self.span < self.largest:  # twice the span: each two bins become one
            self.counts = torch.cat([self.counts.view(-1, 2).sum(dim=1), torch.zeros(BINS // 2, dtype=torch.float64)])
            self.span *= 2
        self.counts += torch.histc(magnitudes, BINS, 0, self.span)


def channel_dims(name, values):
    """Return the dimensions of a quantizer's input whose elements have a scale of their own in the network's weights.

    Images [B, C, H, W]: C; queries and keys [B, heads, N, K] and [B, heads, K, N]: heads and K; tokens [B, N, C]: C.
    """
    if name.endswith(("a_quantizer", "b_quantizer")):
        return (1, 3) if name.endswith("a_quantizer") else (1, 2)
    return (1,) if values.ndim == 4 else (values.ndim - 1,)


@torch.no_grad()
def collect(model, images, progress=lambda count: None):
    """Return {quantizer of an activation: Histogram} of a quantized network that computes in float32.

    images: float32 [N, 3, H, W], indexed by slices; progress: called with each batch's number of images. Raises
    UserError naming an activation that is NaN or infinite, or that has one value everywhere (as only a softmax over
    one token may).
    """
    found = {name: Histogram() for name in amax.activations(model)}

    def watch(name):
        return lambda _, inputs: found[name].add(inputs[0], channel_dims(name, inputs[0]))

    hooks = [q.register_forward_pre_hook(watch(name)) for name, q in amax.activations(model).items()]
    try:
        with amax.unquantized(model):
            for start in range(0, len(images), BATCH):
                batch = images[start : start + BATCH]
                model(batch)
                progress(len(batch))
    finally:
        for hook in hooks:
            hook.remove()
    _check(found)
    return found


def _check(found):
    broken = [name for name, seen in found.items() if not math.isfinite(seen.highest - seen.lowest)]
    if broken:
        raise UserError(
            f"calibration: {len(broken)} activations are NaN or infinite, the first at {broken[0]}: "
            "check the checkpoint and the images"
        )
    one_token = [name for name in found if name.endswith("av.a_quantizer")]  # its softmax is 1 everywhere
    constant = [name for name, seen in found.items() if seen.lowest == seen.highest and name not in one_token]
    if constant:
        raise UserError(
            f"calibration: {len(constant)} activations are constant, the first at {constant[0]} "
            f"({found[constant[0]].lowest:g} everywhere): calibrate on other images, or check the checkpoint"
        )
