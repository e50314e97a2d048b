"""A training step on the threads of a processor: each takes a share of the batch from the images to the gradients.

Threads of OpenMP meet at the end of each operation, some two thousand times a step. Where other work has a processor,
each of these meetings waits for the thread that has none. Shares meet in each BatchNorm and at the end of the step.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch

SMALLEST = 4  # images of a share: a thread has the interpreter for itself while it starts an operation


def number(batch: int, device: torch.device, kind: torch.dtype | None, processes: int = 1) -> int:
    """Return the number of equal shares of a batch that threads of this process compute.

    kind: of the products, where float16 has one scale of the loss, for the whole batch; processes: that share it too.
    """
    if processes > 1 or device.type != "cpu" or kind is torch.float16:
        return 1
    threads = torch.get_num_threads()
    return next(count for count in range(max(1, min(threads, batch // SMALLEST)), 0, -1) if batch % count == 0)


def is_random(network: torch.nn.Module, images: torch.Tensor) -> bool:
    """Return whether a network draws random numbers, as dropout does: threads would draw them in any order."""
    before = torch.get_rng_state()
    with torch.no_grad():
        copy.deepcopy(network)(images)
    drawn = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    return drawn


class Meeting:
    """Where the threads of a step exchange tensors; each has a rank."""

    def __init__(self, size: int) -> None:
        self.size, self._own = size, threading.local()
        self._sent = [[queue.SimpleQueue() for _ in range(size)] for _ in range(size)]

    @contextlib.contextmanager
    def joined(self, rank: int) -> Iterator[None]:
        """Take part with a rank; a failure within the context ends the others' waiting."""
        self._own.rank = rank
        try:
            yield
        except BaseException:
            for box in self._sent[rank]:
                box.put(None)
            raise

    def exchange(self, item: object) -> list:
        """Return what each thread gives, by rank; raise BrokenPipeError if one of them failed."""
        for box in self._sent[self._own.rank]:
            box.put(item)
        items = [row[self._own.rank].get() for row in self._sent]
        if any(each is None for each in items):
            raise BrokenPipeError("another share of the batch failed")
        return items

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return [threads, ...]: each thread's tensor, by rank."""
        return torch.stack(self.exchange(tensor))

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of all threads' tensors, with the same bits in each thread."""
        return self.gather(tensor).sum(0)


class Shares:
    """Computes losses and gradients, in one thread or in as many as there are shares; a context.

    Copies of the network for the other threads have its parameters, and buffers and states of their own.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], count: int) -> None:
        """Prepare. parameters: those that are trained; count: of shares."""
        self.parameters, self.meeting = parameters, Meeting(count)
        self._threads, self._pool, self._copies = torch.get_num_threads(), ThreadPoolExecutor(count), []

    def __enter__(self) -> Shares:
        torch.set_num_threads(max(1, self._threads // self.meeting.size))  # of OpenMP, in each share
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._threads)

    def take(self, network: torch.nn.Module) -> None:
        """Take a network, and again whenever more than its parameters changed."""
        own = {id(value): value for value in (*self.parameters, *network.parameters())}
        self._copies = [network, *(copy.deepcopy(network, dict(own)) for _ in range(self.meeting.size - 1))]

    def ahead(self, batches: Generator) -> Generator:
        """Yield batches; where threads compute shares, another prepares the next batch meanwhile."""
        if self.meeting.size == 1:
            yield from batches
            return
        with contextlib.closing(batches), ThreadPoolExecutor(1) as pool:
            following = pool.submit(next, batches, None)
            while (batch := following.result()) is not None:
                following = pool.submit(next, batches, None)
                yield batch

    def compute(self, loss: Callable, *batch: torch.Tensor) -> tuple[torch.Tensor, list | None]:
        """Return (loss [], gradients of the parameters); None in place of gradients where the loss is to have them.

        loss: function (network, *share of the batch) -> mean over the images of the share.
        """
        if self.meeting.size == 1:
            return loss(self._copies[0], *batch), None
        parts = zip(*(each.chunk(self.meeting.size) for each in batch))
        tasks = [self._pool.submit(self._share, rank, loss, *part) for rank, part in enumerate(parts)]
        losses, gradients = zip(*_results(tasks))
        found = [None] * len(self.parameters)
        for rank, own in enumerate(gradients):
            found[rank :: self.meeting.size] = own
        return torch.stack(losses).mean(), found

    def _share(self, rank, loss, *part):
        """Return a share's loss, and every n-th parameter's gradient over all shares."""
        with self.meeting.joined(rank):
            value = loss(self._copies[rank], *part)
            part = value / self.meeting.size
            found = self.meeting.exchange(torch.autograd.grad(part, self.parameters, allow_unused=True))
            own = zip(*(gradients[rank :: self.meeting.size] for gradients in found))
            return value.detach(), [each[0] if each[0] is None else functools.reduce(torch.add, each) for each in own]


def _results(tasks: Sequence[Future]) -> list:
    """Return the results of tasks that wait for each other; raise the error that came first."""
    wait(tasks)
    errors = [error for error in (task.exception() for task in tasks) if error]
    for error in sorted(errors, key=lambda error: isinstance(error, BrokenPipeError)):
        raise error
    return [task.result() for task in tasks]
