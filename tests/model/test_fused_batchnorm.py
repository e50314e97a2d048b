"""BatchNorm that GPUs share, on a CPU: threads stand for processes, formulas for the kernels of CUDA."""

import concurrent.futures
import threading

import pytest
import torch
from torch import nn

from model import fused_batchnorm

PROCESSES = 2


class Group:
    """Collectives of threads, of which each has a rank."""

    def __init__(self):
        self.barrier = threading.Barrier(PROCESSES, timeout=20)
        self.given, self.local = [None] * PROCESSES, threading.local()

    def size(self):
        return PROCESSES

    def exchange(self, tensor):
        self.given[self.local.rank] = tensor.clone()
        self.barrier.wait()
        every = torch.stack(self.given)
        self.barrier.wait()
        return every

    def all_gather_into_tensor(self, every, local, group):
        assert group is self
        every.copy_(self.exchange(local))

    def all_reduce(self, tensor, group):
        assert group is self
        tensor.copy_(self.exchange(tensor).sum(0))


def wide(values, inputs):
    return values.view([1, -1] + [1] * (inputs.ndim - 2))


def axes(inputs):
    return [0, *range(2, inputs.ndim)]


def stats(inputs, eps):
    variance, mean = torch.var_mean(inputs, axes(inputs), correction=0)
    return mean, (variance + eps).rsqrt()


def gather_stats(inputs, means, spreads, running_mean, running_var, momentum, eps, counts):
    assert counts.dtype == running_mean.dtype
    weights = counts[:, None] / counts.sum()
    mean = (means * weights).sum(0)
    variance = ((spreads**-2 - eps + (means - mean).square()) * weights).sum(0)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * counts.sum() / (counts.sum() - 1), momentum)
    return mean, (variance + eps).rsqrt()


def elemt(inputs, weight, bias, mean, spread, eps):
    return (inputs - wide(mean, inputs)) * wide(spread * weight, inputs) + wide(bias, inputs)


def backward_reduce(grad, inputs, mean, spread, weight, *wanted):
    sums = grad.sum(axes(inputs)), (grad * (inputs - wide(mean, inputs))).sum(axes(inputs))
    return *sums, sums[1] * spread, sums[0]


def backward_elemt(grad, inputs, mean, spread, weight, sums, products, counts):
    assert counts.dtype == torch.int32
    centered = (inputs - wide(mean, inputs)) * wide(spread.square() * products / counts.sum(), inputs)
    return (grad - wide(sums / counts.sum(), inputs) - centered) * wide(spread * weight, inputs)


@pytest.fixture
def group(monkeypatch):
    group = Group()
    for name in ("all_gather_into_tensor", "all_reduce"):
        monkeypatch.setattr(fused_batchnorm.dist, name, getattr(group, name))
    kernels = {"stats": stats, "gather_stats_with_counts": gather_stats, "elemt": elemt}
    kernels.update(backward_reduce=backward_reduce, backward_elemt=backward_elemt)
    for name, function in kernels.items():
        monkeypatch.setattr(torch, f"batch_norm_{name}", function)
    return group


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 3)])
@pytest.mark.parametrize("running", [True, False], ids=["running", "no running statistics"])
def test_processes_normalize_as_one(group, shape, running):
    torch.manual_seed(0)
    inputs, grads = torch.randn(shape), torch.randn(shape)
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(4)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    parameters = [norm.weight, norm.bias]
    statistics = [[norm.running_mean.clone(), norm.running_var.clone()] for _ in range(PROCESSES)]
    whole = inputs.clone().requires_grad_()
    outputs = norm(whole)
    wanted = torch.autograd.grad(outputs, [whole, *parameters], grads)

    def share(rank):
        group.local.rank = rank
        own = inputs.chunk(PROCESSES)[rank].requires_grad_()
        given = statistics[rank] if running else (None, None)
        found = fused_batchnorm.batch_norm(group, own, *given, *parameters, norm.momentum, norm.eps)
        return found, *torch.autograd.grad(found, [own, *parameters], grads.chunk(PROCESSES)[rank])

    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        found, by_inputs, by_weight, by_bias = zip(*pool.map(share, range(PROCESSES)))
    assert torch.allclose(torch.cat(found), outputs, atol=1e-5)
    assert torch.allclose(torch.cat(by_inputs), wanted[0], atol=1e-5)
    assert torch.allclose(sum(by_weight), wanted[1], atol=1e-5) and torch.allclose(sum(by_bias), wanted[2], atol=1e-5)
    for mean, variance in statistics if running else ():
        assert torch.allclose(mean, norm.running_mean) and torch.allclose(variance, norm.running_var)
