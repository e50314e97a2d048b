"""Histograms of activations: one pass over the images serves every method of choosing ranges."""

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from core.files import UserError
from quantization import amax
from quantization.calibration_images import Images

BINS = 4096  # of a histogram; at least its upper half is in use
BATCH = 32


class Histogram:
    """Magnitudes of one activation: the number in each of BINS equal bins from 0 to `span`, a power of two.

    lowest, highest: of the values themselves; channels: largest magnitude of each channel. Only the first two are
    known where `counted` is False.
    """

    def __init__(self, counted: bool = True):
        self.counted = counted
        self.counts, self.span = torch.zeros(BINS, dtype=torch.float64), 0.0
        self.lowest, self.highest, self.channels = math.inf, -math.inf, torch.zeros(1)

    @property
    def largest(self) -> float:
        """Return the largest magnitude."""
        return max(-self.lowest, self.highest)

    def add(self, values: torch.Tensor, channels: Sequence[int]) -> None:
        """Count a float32 tensor; channels: its dimensions that `self.channels` keeps apart."""
        low, high = (bound.item() for bound in values.aminmax())
        if not math.isfinite(low + high):
            low, high = -math.inf, math.inf  # NaN would not outlast the next minimum
        self.lowest, self.highest = min(self.lowest, low), max(self.highest, high)
        if not (self.counted and 0 < self.largest < math.inf):
            return
        magnitudes = values.abs()
        others = [dim for dim in range(values.ndim) if dim not in channels]
        self.channels = torch.maximum(self.channels, magnitudes.amax(dim=others))
        self._widen(2.0 ** math.ceil(math.log2(self.largest)))
        self.counts += torch.histc(magnitudes, BINS, 0, self.span)

    def merge(self, other: "Histogram") -> None:
        """Count what another histogram of the activation counted."""
        self.lowest, self.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        self.channels = torch.maximum(self.channels, other.channels)
        if other.span:
            self._widen(other.span)
            other._widen(self.span)
            self.counts += other.counts

    def _widen(self, span):
        self.span = self.span or span
        while self.span < span:  # double the span: merge the bins in pairs
            self.counts = torch.cat([self.counts.view(-1, 2).sum(dim=1), torch.zeros(BINS // 2, dtype=torch.float64)])
            self.span *= 2


def channel_dims(name: str, values: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions of a quantizer's input that weights can scale element by element.

    Images [B, C, H, W]: C; queries and keys [B, heads, N, K] and [B, heads, K, N]: heads and K; tokens [B, N, C]: C.
    """
    if name.endswith(("a_quantizer", "b_quantizer")):
        return (1, 3) if name.endswith("a_quantizer") else (1, 2)
    return (1,) if values.ndim == 4 else (values.ndim - 1,)


def collect(
    model: torch.nn.Module, images: Images, progress: Callable = lambda count: None, counted: bool = True
) -> dict[str, Histogram]:
    """Return {quantizer of an activation: Histogram} of a quantized network that computes in float32.

    Each thread has every n-th batch, so that threads meet at the end alone.

    images: float32 [N, 3, H, W], indexed by slices; progress: called with the number of images of each batch; counted:
    False for bounds alone, in a fraction of the time. Raises UserError naming an activation that is NaN or infinite, or
    that is constant (as only a softmax over one token may be).
    """
    names, thread, lock = list(amax.activations(model)), threading.local(), threading.Lock()
    starts = range(0, len(images), BATCH)
    count = min(torch.get_num_threads(), len(starts))

    @torch.no_grad()
    def part(number):
        thread.histograms = {name: Histogram(counted) for name in names}
        for start in starts[number::count]:
            batch = images[start : start + BATCH]
            model(batch)
            with lock:
                progress(len(batch))
        return thread.histograms

    observed = amax.observed(model, lambda name, value: thread.histograms[name].add(value, channel_dims(name, value)))
    with observed, _divided(count), ThreadPoolExecutor(count) as pool:
        histograms, *others = pool.map(part, range(count))
    for name in names:
        for other in others:
            histograms[name].merge(other[name])
    _check(histograms)
    return histograms


@contextlib.contextmanager
def _divided(count):
    """Within the context, each of some threads has an equal part of OpenMP's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // count))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(histograms):
    broken = [name for name, h in histograms.items() if not math.isfinite(h.highest - h.lowest)]
    if broken:
        where = f"{len(broken)} activations are NaN or infinite, the first at {broken[0]}"
        raise UserError(f"calibration: {where}: check the checkpoint and the images")
    constant = [name for name, h in histograms.items() if h.lowest == h.highest]
    constant = [name for name in constant if not name.endswith("av.a_quantizer")]  # a softmax over one token is 1
    if constant:
        where = f"the first at {constant[0]} ({histograms[constant[0]].lowest:g} everywhere)"
        remedy = "calibrate on other images, or check the checkpoint"
        raise UserError(f"calibration: {len(constant)} activations are constant, {where}: {remedy}")
