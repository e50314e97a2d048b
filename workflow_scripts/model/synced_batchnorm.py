"""BatchNorm over each micro-batch of a batch, whatever the number of processes that share the batch.

Statistics of small parts of a batch ("ghost batches") are those of Hoffer et al., 2017.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from model import fused_batchnorm


@contextlib.contextmanager
def synced(micro_batches: int, processes: int) -> Iterator[None]:
    """Within the context, training-mode BatchNorm normalizes each of a batch's equal micro-batches by itself.

    Processes have several whole ones each, one each, or share one among several that follow each other.
    """
    plain, training = F.batch_norm, None
    if micro_batches > processes:
        training = functools.partial(_in_parts, plain, micro_batches // processes)
    elif processes > micro_batches:
        group = dist.group.WORLD if micro_batches == 1 else dist.new_subgroups(processes // micro_batches)[0]
        training = functools.partial(_exchanged, group)
    if training:
        F.batch_norm = functools.partial(_batch_norm, plain, training)
    try:
        yield
    finally:
        F.batch_norm = plain


def _batch_norm(
    plain, chosen, inputs, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    function = chosen if training else functools.partial(plain, training=False)
    return function(inputs, running_mean, running_var, weight, bias, momentum=momentum, eps=eps)


def _in_parts(plain, count, inputs, *parameters, **options):
    return torch.cat([plain(part, *parameters, training=True, **options) for part in inputs.chunk(count)])


def _exchanged(group, inputs, running_mean, running_var, weight, bias, momentum, eps):
    kind, channels = inputs.dtype if weight is None else weight.dtype, inputs.shape[1]
    scale = inputs.new_ones(channels, dtype=kind) if weight is None else weight
    shift = inputs.new_zeros(channels, dtype=kind) if bias is None else bias
    if inputs.is_cuda:
        return fused_batchnorm.batch_norm(group, inputs, running_mean, running_var, scale, shift, momentum, eps)
    outputs, mean, variance = _Shared.apply(inputs, scale, shift, eps, group)
    if running_mean is not None:
        count = inputs.numel() // inputs.shape[1] * group.size()
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(1, count - 1))).to(running_var.dtype), momentum)
    return outputs


class _Shared(torch.autograd.Function):
    """The normalization on CPUs: (inputs [N, C, ...], weight [C], bias [C]) -> (outputs, mean [C], variance [C])."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, group: Any
    ) -> tuple:
        """Gather each process's mean and variance, and normalize with those of the group: Chan et al., 1983."""
        axes = [0, *range(2, inputs.ndim)]
        variance, mean = torch.var_mean(inputs.to(weight.dtype), axes, correction=0)
        every = mean.new_zeros(group.size(), 2, len(mean))
        every[group.rank()] = torch.stack([mean, variance])
        dist.all_reduce(every, group=group)
        means, variances = every.unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, variance)
        outputs = torch.batch_norm(inputs, weight, bias, mean, variance, False, 0.0, eps, False)
        return outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        """Return the gradients of this process's share; those of parameters are averaged with all others."""
        inputs, weight, mean, variance = ctx.saved_tensors
        spread = (variance + ctx.eps).rsqrt()
        saved = (inputs, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        fixed, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(grads[0].contiguous(), *saved)
        sums = torch.stack([by_weight, by_bias])
        dist.all_reduce(sums, group=ctx.group)
        sums /= inputs.numel() // len(mean) * ctx.group.size()
        slope = -weight * spread.square() * sums[0]  # of what the statistics of the batch add, over the inputs
        offset = -weight * spread * sums[1] - slope * mean
        shape = [1, -1] + [1] * (inputs.ndim - 2)
        through = torch.addcmul(offset.view(shape), inputs.to(weight.dtype), slope.view(shape))
        return fixed + through.to(fixed.dtype), by_weight, by_bias, None, None


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
