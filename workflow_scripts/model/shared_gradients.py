"""Gradients that processes average, those of a process side by side in one vector.

Processes of a CPU share memory: sockets take several times as long. Processes with a GPU each make one call of NCCL:
torch's DistributedDataParallel launches two copies of each gradient, which takes longer, for networks of this size,
than it saves by averaging some gradients during the backward pass.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence

import torch
import torch.distributed as dist


def file() -> int:
    """Return the descriptor of a file in memory, which has no name and is inherited by forks; on disk outside Linux."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("gradients")
    with tempfile.TemporaryFile() as unnamed:
        return os.dup(unnamed.fileno())


class _Gradients:
    """Gradients that a subclass averages from vectors to a vector."""

    def __init__(self, parameters, own, means):
        """Prepare. own, means: vectors of this process's gradients, and of the averaged ones."""
        self.parameters = parameters
        self._own, self._means = _views(own, parameters), _views(means, parameters)

    @torch.no_grad()
    def average(self) -> None:
        """Replace the gradients by their mean over all processes; parameters without one have none afterwards."""
        given = [index for index, value in enumerate(self.parameters) if value.grad is not None]
        torch._foreach_copy_([self._own[index] for index in given], [self.parameters[index].grad for index in given])
        self._reduce()
        for index in given:
            self.parameters[index].grad = self._means[index]

    def _reduce(self):
        raise NotImplementedError


class FlatGradients(_Gradients):
    """The gradients of a process, in a vector of its own."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        """Set the parameters to those of the first process; they are in the same order in all, which are connected."""
        self._flat = parameters[0].new_empty(sum(value.numel() for value in parameters), requires_grad=False)
        super().__init__(parameters, self._flat, self._flat)
        with torch.no_grad():
            torch._foreach_copy_(self._own, list(parameters))
            dist.broadcast(self._flat, 0)
            torch._foreach_copy_(list(parameters), self._own)

    def _reduce(self):
        dist.all_reduce(self._flat)
        self._flat /= dist.get_world_size()


class SharedGradients(_Gradients):
    """The gradients of every process, in a file that all of them have open; they are added in the order of ranks."""

    def __init__(self, descriptor: int, parameters: Sequence[torch.Tensor]) -> None:
        """Map the file; descriptor: of `file`; parameters: in the same order in all processes, which are connected."""
        processes, size = dist.get_world_size(), sum(value.numel() for value in parameters)
        bytes_in_all = processes * size * torch.float32.itemsize
        os.ftruncate(descriptor, bytes_in_all)
        self._all = torch.frombuffer(mmap.mmap(descriptor, bytes_in_all), dtype=torch.float32).view(processes, size)
        self._mean = torch.empty(size)
        super().__init__(parameters, self._all[dist.get_rank()], self._mean)

    def _reduce(self):
        dist.barrier()
        torch.sum(self._all, 0, out=self._mean).div_(len(self._all))
        dist.barrier()  # the next gradients are written once all processes have read these


def _views(flat, parameters):
    """Return a view of each parameter's part of a vector, with the parameter's strides."""
    parts = flat.split([value.numel() for value in parameters])
    return [part.as_strided(value.size(), value.stride()) for part, value in zip(parts, parameters)]
