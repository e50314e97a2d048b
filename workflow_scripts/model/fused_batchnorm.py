"""BatchNorm over the shares of several GPUs, by the kernels of torch's SyncBatchNorm: five launches each way.

torch's own function waits for the GPU in each layer, to leave processes out that have no images: ours all have as many.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist


def batch_norm(
    group: dist.ProcessGroup,
    inputs: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """Return inputs [N, C, ...] on a GPU, normalized with the statistics of a group's equal shares.

    running_mean, running_var, weight, bias [C]: the first two are updated.
    """
    running = [torch.zeros_like(weight) if value is None else value for value in (running_mean, running_var)]
    return _Shared.apply(inputs, weight, bias, *running, momentum, eps, group)


class _Shared(torch.autograd.Function):
    """The normalization: (inputs [N, C, ...], weight [C], bias [C], ...) -> outputs."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *more: Any) -> torch.Tensor:
        """Gather each process's mean and reciprocal deviation, and normalize with those of the group."""
        *running, momentum, eps, group = more
        inputs, count = _dense(inputs), inputs.numel() // inputs.shape[1]
        local = torch.stack(torch.batch_norm_stats(inputs, eps))
        every = local.new_empty(group.size(), *local.shape)
        dist.all_gather_into_tensor(every, local, group=group)
        counts = _counts(group.size(), count, running[0].dtype, inputs.device)
        shares = (*every.unbind(1), *running, momentum, eps, counts)
        mean, spread = torch.batch_norm_gather_stats_with_counts(inputs, *shares)
        ctx.save_for_backward(inputs, weight, mean, spread)
        ctx.group, ctx.counts = group, _counts(group.size(), count, torch.int32, inputs.device)
        return torch.batch_norm_elemt(inputs, weight, bias, mean, spread, eps)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        """Return the gradients of this process's share; those of parameters are averaged with all others."""
        inputs, weight, mean, spread = ctx.saved_tensors
        grad = _dense(grads[0])
        reduced = torch.batch_norm_backward_reduce(grad, inputs, mean, spread, weight, True, True, True)
        sums = torch.stack(reduced[:2])
        dist.all_reduce(sums, group=ctx.group)
        through = torch.batch_norm_backward_elemt(grad, inputs, mean, spread, weight, *sums.unbind(), ctx.counts)
        return through, *reduced[2:], None, None, None, None, None


def _dense(tensor):
    """Return a tensor in a layout that the kernels support: itself if it has one, else a copy."""
    return tensor if tensor.is_contiguous(memory_format=_layout(tensor)) else tensor.contiguous()


def _layout(tensor):
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format


@functools.lru_cache
def _counts(processes, count, kind, device):
    """Return how many values each process has of a channel, made once: copying them to a GPU waits for it."""
    return torch.full((processes,), count, dtype=kind, device=device)
