"""Gradients that the processes of a CPU average in memory which they share: sockets take several times as long."""

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


class SharedGradients:
    """The gradients of every process, side by side in a file that all of them have open."""

    def __init__(self, descriptor: int, parameters: Sequence[torch.Tensor]) -> None:
        """Map the file; descriptor: of `file`; parameters: in the same order in all processes, which are connected."""
        self.parameters = parameters
        processes, size = dist.get_world_size(), sum(value.numel() for value in parameters)
        bytes_in_all = processes * size * torch.float32.itemsize
        os.ftruncate(descriptor, bytes_in_all)
        self._all = torch.frombuffer(mmap.mmap(descriptor, bytes_in_all), dtype=torch.float32).view(processes, size)
        self._own = self._views(self._all[dist.get_rank()])

    @torch.no_grad()
    def average(self) -> None:
        """Replace the gradients by their mean over all processes, added in the order of ranks."""
        given = [index for index, value in enumerate(self.parameters) if value.grad is not None]
        torch._foreach_copy_([self._own[index] for index in given], [self.parameters[index].grad for index in given])
        dist.barrier()
        means = self._views(self._all.sum(0).div_(len(self._all)))
        for index in given:
            self.parameters[index].grad = means[index]
        dist.barrier()  # the next gradients are written once all processes have read these

    def _views(self, flat):
        """Return a view of each parameter's part of a vector, with the parameter's strides."""
        parts = flat.split([value.numel() for value in self.parameters])
        return [part.as_strided(value.size(), value.stride()) for part, value in zip(parts, self.parameters)]
