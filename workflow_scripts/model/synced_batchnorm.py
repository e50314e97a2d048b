"""BatchNorm over the whole batch where several processes share it: each normalizes its images as one process would."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F


@contextlib.contextmanager
def synced(processes: int) -> Iterator[None]:
    """Within the context, training-mode BatchNorm uses the statistics of all processes' equal shares of a batch."""
    plain = F.batch_norm
    if processes > 1:
        F.batch_norm = functools.partial(_batch_norm, plain)
    try:
        yield
    finally:
        F.batch_norm = plain


def _batch_norm(
    plain, inputs, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    if not training:
        return plain(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
    kind = inputs.dtype if weight is None else weight.dtype
    scale, shift = (torch.full(inputs.shape[1:2], value, dtype=kind, device=inputs.device) for value in (1.0, 0.0))
    scale, shift = scale if weight is None else weight, shift if bias is None else bias
    outputs, mean, variance = _Shared.apply(inputs, scale, shift, eps)
    if running_mean is not None:
        count = inputs.numel() // inputs.shape[1] * dist.get_world_size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(1, count - 1))).to(running_var.dtype), momentum)
    return outputs


class _Shared(torch.autograd.Function):
    """The normalization: (inputs [N, C, ...], weight [C], bias [C]) -> (outputs, mean [C], biased variance [C])."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> tuple:
        """Gather each process's mean and variance, and normalize with those of all: Chan et al., 1983."""
        axes = [0, *range(2, inputs.ndim)]
        variance, mean = torch.var_mean(inputs.to(weight.dtype), axes, correction=0)
        every = mean.new_zeros(dist.get_world_size(), 2, len(mean))
        every[dist.get_rank()] = torch.stack([mean, variance])
        dist.all_reduce(every)
        means, variances = every.unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        outputs = torch.batch_norm(inputs, weight, bias, mean, variance, False, 0.0, eps, False)
        return outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        """Return the gradients of this process's share; DistributedDataParallel averages the parameters'."""
        inputs, weight, mean, variance = ctx.saved_tensors
        spread = (variance + ctx.eps).rsqrt()
        saved = (inputs, weight, mean, variance, mean, spread, False, ctx.eps, [True, True, True])  # twice, for CUDA
        fixed, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(grads[0].contiguous(), *saved)
        sums = torch.stack([by_weight, by_bias])
        dist.all_reduce(sums)
        sums /= inputs.numel() // len(mean) * dist.get_world_size()
        slope = -weight * spread.square() * sums[0]  # of what the statistics of the batch add, over the inputs
        offset = -weight * spread * sums[1] - slope * mean
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        through = torch.addcmul(offset.view(shape), inputs.to(weight.dtype), slope.view(shape))
        return fixed + through.to(fixed.dtype), by_weight, by_bias, None


def average(norms: Sequence[torch.nn.Module], batches: int) -> None:
    """Average running statistics, each of them the mean over a process's own number of batches, over all processes."""
    if not norms or not dist.is_initialized():
        return
    total = norms[0].running_mean.new_tensor([batches], dtype=torch.float64)
    dist.all_reduce(total)
    for norm in norms:
        for value in (norm.running_mean, norm.running_var):
            sums = value.double() * batches
            dist.all_reduce(sums)
            value.copy_(sums / total)
        norm.num_batches_tracked.fill_(int(total))
