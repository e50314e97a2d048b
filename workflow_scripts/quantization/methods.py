"""Methods of choosing a range (amax) from an activation's histogram, or from a weight itself."""

import torch

from quantization.histograms import BINS

LEVELS = 128  # magnitudes that INT8 tells apart
QMAX = 127
STEPS = 128  # candidates of a search for the least squared error: parts of the largest magnitude
SHARES = torch.linspace(1.0, 0.4, 31)  # candidates of a weight's range: shares of its largest magnitude
SMALLEST = 1e-6  # range of a tensor that is zero everywhere, so that its scale is still a normal number
PERCENTILE = 99.999


def largest(seen, recipe):
    """Return the largest magnitude that was seen: nothing is clipped."""
    return seen.largest


def percentile(seen, recipe):
    """Return the magnitude that `recipe["percentile"]` percent of the values do not exceed."""
    wanted = recipe.get("percentile", PERCENTILE) / 100 * seen.counts.sum()
    bins = int((seen.counts.cumsum(dim=0) < wanted).sum()) + 1
    return min(bins * seen.span / BINS, seen.largest)


def mse(seen, recipe):
    """Return the range whose quantization has the least mean squared error, rounding and clipping together."""
    values = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (seen.span / BINS)
    ranges = seen.largest * torch.arange(STEPS // 8, STEPS + 1, dtype=torch.float64) / STEPS
    scales = ranges[:, None] / QMAX
    errors = ((values / scales).round_().clamp_(max=QMAX).mul_(scales).sub_(values).square_() * seen.counts).sum(dim=1)
    return ranges[errors.argmin()].item()


def entropy(seen, recipe):
    """Return the range that keeps the distribution of magnitudes nearest to itself (least KL divergence).

    Migacz 2017, "8-bit inference with TensorRT": what is clipped counts at the range, and the values inside are
    spread evenly over the bins that share a level and were not empty. Probabilities keep their whole range: nearly all
    are near 0, and the divergence would clip the few that decide.
    """
    if seen.lowest >= 0 and seen.highest <= 1:
        return seen.largest
    last = -(-int(seen.largest / seen.span * BINS) // LEVELS)
    widths = range(1, max(last, 1) + 1)
    best = min(widths, key=lambda width: _divergence(seen.counts, width))
    return min(best * LEVELS * seen.span / BINS, seen.largest)


def _divergence(counts, width):
    """Return KL(P || Q) of the first LEVELS * width bins: P has what lies above in its last one, Q is quantized."""
    inside = counts[: LEVELS * width]
    given = inside.clone()
    given[-1] += counts[len(inside) :].sum()
    levels = inside.view(LEVELS, width)
    filled = levels > 0
    spread = (levels.sum(dim=1) / filled.sum(dim=1).clamp(min=1))[:, None].expand_as(levels)
    quantized = torch.where(filled.flatten(), spread.flatten(), 1e-9 * given.sum())
    p, q = given / given.sum(), quantized / quantized.sum()
    return torch.special.xlogy(p, p / q).sum().item()


METHODS = {"max": largest, "entropy": entropy, "percentile": percentile, "mse": mse}


def weight_max(weight):
    """Return the largest magnitude of each output channel of a weight [O, ...]."""
    return weight.flatten(1).abs().amax(dim=1).clamp(min=SMALLEST)


def weight_mse(weight):
    """Return the range of each output channel of a weight [O, ...] with the least squared error of quantization."""
    rows, whole = weight.flatten(1), weight_max(weight)[:, None]
    ranges = torch.stack([whole * share for share in SHARES])
    errors = torch.stack([_error(rows, amax / QMAX) for amax in ranges])
    return ranges[errors.argmin(dim=0), torch.arange(len(rows)), 0]


def _error(rows, scale):
    return (torch.round(rows / scale).clamp_(-QMAX - 1, QMAX).mul_(scale).sub_(rows)).square_().sum(dim=1)


WEIGHTS = {"max": weight_max, "mse": weight_mse}
