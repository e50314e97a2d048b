"""Methods of choosing a range (amax): from the histogram of an activation, or from a weight itself."""

import torch

from quantization.histograms import BINS, Histogram

LEVELS = 128  # magnitudes that INT8 represents
QMAX = 127
STEPS = 128  # of the largest magnitude: candidates in the search for the least squared error
SHARES = torch.linspace(1.0, 0.4, 31)  # of a weight's largest magnitude: candidates for its range
SMALLEST = 1e-6  # range of a tensor of zeros, so that its scale is still a normal number
PERCENTILE = 99.999


def largest(histogram: Histogram, recipe: dict) -> float:
    """Return the largest magnitude: nothing is clipped."""
    return histogram.largest


def percentile(histogram: Histogram, recipe: dict) -> float:
    """Return the magnitude that `recipe["percentile"]` percent of the values do not exceed."""
    count = recipe.get("percentile", PERCENTILE) / 100 * histogram.counts.sum()
    bins = int((histogram.counts.cumsum(dim=0) < count).sum()) + 1
    return min(bins * histogram.span / BINS, histogram.largest)


def mse(histogram: Histogram, recipe: dict) -> float:
    """Return the range whose quantization has the least mean squared error, of rounding and clipping together."""
    values = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (histogram.span / BINS)
    ranges = histogram.largest * torch.arange(STEPS // 8, STEPS + 1, dtype=torch.float64) / STEPS
    scales = ranges[:, None] / QMAX
    errors = (values / scales).round_().clamp_(max=QMAX).mul_(scales).sub_(values).square_()
    return ranges[(errors * histogram.counts).sum(dim=1).argmin()].item()


def entropy(histogram: Histogram, recipe: dict) -> float:
    """Return the range that changes the distribution of magnitudes least (KL divergence).

    Migacz 2017, "8-bit inference with TensorRT": clipped values count at the range, and values inside it are spread
    evenly over the non-empty bins that share a level. Probabilities are not clipped: nearly all are near 0, and the
    least divergence would clip the few that matter.
    """
    if histogram.lowest >= 0 and histogram.highest <= 1:
        return histogram.largest
    last = -(-int(histogram.largest / histogram.span * BINS) // LEVELS)
    widths = range(1, max(last, 1) + 1)
    best = min(widths, key=lambda width: _divergence(histogram.counts, width))
    return min(best * LEVELS * histogram.span / BINS, histogram.largest)


def _divergence(counts, width):
    """Return KL(P || Q) of the first LEVELS * width bins: P has the clipped values in its last bin, Q is quantized."""
    inside = counts[: LEVELS * width]
    clipped = inside.clone()
    clipped[-1] += counts[len(inside) :].sum()
    levels = inside.view(LEVELS, width)
    filled = levels > 0
    spread = (levels.sum(dim=1) / filled.sum(dim=1).clamp(min=1))[:, None].expand_as(levels)
    quantized = torch.where(filled.flatten(), spread.flatten(), 1e-9 * clipped.sum())
    p, q = clipped / clipped.sum(), quantized / quantized.sum()
    return torch.special.xlogy(p, p / q).sum().item()


METHODS = {"max": largest, "entropy": entropy, "percentile": percentile, "mse": mse}


def weight_max(weight: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each output channel of a weight [O, ...]."""
    return weight.flatten(1).abs().amax(dim=1).clamp(min=SMALLEST)


def weight_mse(weight: torch.Tensor) -> torch.Tensor:
    """Return the range of each output channel of a weight [O, ...] whose quantization has the least squared error."""
    rows, whole = weight.flatten(1), weight_max(weight)[:, None]
    ranges = torch.stack([whole * share for share in SHARES])
    errors = torch.stack([_error(rows, amax / QMAX) for amax in ranges])
    return ranges[errors.argmin(dim=0), torch.arange(len(rows)), 0]


def _error(rows, scale):
    return (torch.round(rows / scale).clamp_(-QMAX - 1, QMAX).mul_(scale).sub_(rows)).square_().sum(dim=1)


WEIGHTS = {"max": weight_max, "mse": weight_mse}
