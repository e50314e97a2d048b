"""BatchNorm over the whole batch where processes or threads share it: each normalizes its images as one would."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from model.shares import Meeting


class Processes:
    """The processes of torch.distributed, as those that share a batch."""

    def __init__(self, size: int) -> None:
        self.size = size

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return [processes, ...]: each process's tensor, by rank."""
        every = tensor.new_zeros(self.size, *tensor.shape)
        every[dist.get_rank()] = tensor
        dist.all_reduce(every)
        return every

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of all processes' tensors."""
        dist.all_reduce(tensor)
        return tensor


@contextlib.contextmanager
def synced(group: Processes | Meeting) -> Iterator[None]:
    """Within the context, training-mode BatchNorm uses the statistics of all equal shares of a batch."""
    plain = F.batch_norm
    if group.size > 1:
        F.batch_norm = functools.partial(_batch_norm, plain, group)
    try:
        yield
    finally:
        F.batch_norm = plain


def _batch_norm(
    plain, group, inputs, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
):
    if not training:
        return plain(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
    kind = inputs.dtype if weight is None else weight.dtype
    scale = inputs.new_ones(inputs.shape[1], dtype=kind) if weight is None else weight
    shift = inputs.new_zeros(inputs.shape[1], dtype=kind) if bias is None else bias
    outputs, mean, variance = _Shared.apply(inputs, scale, shift, eps, group)
    if running_mean is not None:
        count = inputs.numel() // inputs.shape[1] * group.size
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (count / max(1, count - 1))).to(running_var.dtype), momentum)
    return outputs


class _Shared(torch.autograd.Function):
    """The normalization: (inputs [N, C, ...], weight [C], bias [C]) -> (outputs, mean [C], biased variance [C])."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, group: Processes | Meeting
    ) -> tuple:
        """Gather each share's mean and variance, and normalize with those of all: Chan et al., 1983."""
        moments = group.gather(torch.stack(_moments(inputs, weight.dtype)))
        mean, variance = moments.mean(0).unbind()
        variance = variance + moments[:, 0].var(0, correction=0)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps, ctx.group = eps, group
        ctx.mark_non_differentiable(mean, variance)
        outputs = torch.batch_norm(inputs, weight, bias, mean, variance, False, 0.0, eps, False)
        return outputs, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        """Return the gradients of this share; those of parameters are averaged with the others' later."""
        inputs, weight, mean, variance = ctx.saved_tensors
        kept = (inputs, weight, mean, variance, None, None, False, ctx.eps, [True, True, True])
        gradient = _laid_out_as(inputs, grads[0])
        fixed, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(gradient, *kept)
        count = inputs.numel() // len(mean) * ctx.group.size
        of_weight, of_bias = (ctx.group.total(torch.stack([by_weight, by_bias])) / count).unbind()
        spread = (variance + ctx.eps).rsqrt()
        slope = -weight * spread.square() * of_weight  # of what the statistics of the batch add, over the inputs
        offset = -weight * spread * of_bias - slope * mean
        unit = torch.zeros_like(mean), torch.ones_like(mean), False, 0.0, 0.0, False  # statistics that change nothing
        return fixed.add_(torch.batch_norm(inputs, slope, offset, *unit)), by_weight, by_bias, None, None


def _moments(inputs, kind):
    """Return the mean [C] and the biased variance [C] of inputs [N, C, ...]."""
    if inputs.is_cuda:
        return torch.var_mean(inputs.to(kind), [0, *range(2, inputs.ndim)], correction=0)[::-1]
    unused = torch.zeros(2, inputs.shape[1], dtype=kind)  # running statistics, whose type the moments have
    return torch.ops.aten.batch_norm_update_stats(inputs, unused[0], unused[1], 0.0)  # ten times as fast as var_mean


def _laid_out_as(inputs, gradient):
    last = inputs.ndim == 4 and inputs.is_contiguous(memory_format=torch.channels_last)
    return gradient.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def average(norms: Sequence[torch.nn.Module], batches: int) -> None:
    """Average running statistics, each of them the mean over a process's own number of batches, over all processes."""
    if not norms or not dist.is_initialized():
        return
    flat = torch.cat([value.flatten() for norm in norms for value in (norm.running_mean, norm.running_var)])
    sums = torch.cat([flat.double() * batches, flat.new_tensor([batches], dtype=torch.float64)])
    dist.all_reduce(sums)
    left = (sums[:-1] / sums[-1]).to(flat.dtype)
    for norm in norms:
        for value in (norm.running_mean, norm.running_var):
            value.copy_(left[: value.numel()])
            left = left[value.numel() :]
        norm.num_batches_tracked.fill_(int(sums[-1]))
