"""A PyTorch network on a GPU, timed by the pipeline of runtimes/_pipeline.py: with torch's own memory and graphs.

torch's allocator must know of every stream and capture, so that CUDA is not called past it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from core.files import UserError
from runtimes import Session, Timing, _pipeline, _program


class Slot(_pipeline.Slot):
    """Pinned and device tensors for one query."""

    def __init__(self, torch: Any, event: Callable[..., Any], images: np.ndarray, logits: np.ndarray, spin: bool):
        super().__init__(event, spin)
        self.torch = torch
        self.host = {name: torch.from_numpy(one).pin_memory() for name, one in (("x", images), ("logits", logits))}
        self.device = {name: one.cuda() for name, one in self.host.items()}

    def copy_in(self, stream: Any) -> None:  # noqa: D102
        with self.torch.cuda.stream(stream):
            self.device["x"].copy_(self.host["x"], non_blocking=True)

    def copy_out(self, stream: Any) -> None:  # noqa: D102
        with self.torch.cuda.stream(stream):
            self.host["logits"].copy_(self.device["logits"], non_blocking=True)


class CudaSession(Session):
    """A network on the current GPU. Queries run on a stream of the session's own."""

    on_gpu = True

    def __init__(self, path: str, network: Any, size: list[int], batches: list[int] | None):
        self.torch = _program.library()
        self.name, self.batches, self.network = path, batches, network
        self.inputs, self.outputs = {"x": [-1, *size]}, {"logits": [-1, -1]}
        self.facts = {"threads": None, "cuda_graph": False}
        self.Stream, self.Event = self.torch.cuda.Stream, functools.partial(self.torch.cuda.Event, enable_timing=True)
        self.stream = self.Stream()

    def _logits(self, images):
        with self.torch.inference_mode():
            return self.network(images)

    def _run_batch(self, part):
        count, size = len(part), self._fitting(len(part))
        padded = np.zeros((max(count, size),) + part.shape[1:], np.float32)
        padded[:count] = part
        with self.torch.cuda.stream(self.stream):
            return self._logits(self.torch.from_numpy(padded).cuda())[:count].cpu().numpy()

    def time(self, images: np.ndarray, loop: Any) -> Timing:
        """Return the Timing. loop.options: {cuda_graph, spin_wait, transfers}, each on where it is not given."""
        images, spin = self._timed(images), loop.options.get("spin_wait", True)
        logits = self.run(images)
        slots = [Slot(self.torch, self.Event, images, logits, spin) for _ in range(_pipeline.IN_FLIGHT)]
        pipeline = _pipeline.Pipeline(self, slots, loop.options)
        self.facts = {"threads": None, "cuda_graph": pipeline.graphs}
        return pipeline.run(loop)

    def enqueuer(self, slot: Slot, stream: Any) -> Callable[[], None]:
        """Return a function that enqueues a slot's query."""

        def enqueue():
            with self.torch.cuda.stream(stream):
                slot.device["logits"] = self._logits(slot.device["x"])

        return enqueue

    def capture(self, stream: Any, work: Callable[[], Any]) -> Callable[[], None]:
        """Return a function that launches what `work()` enqueues as a CUDA graph; raise UserError where it cannot."""
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph, stream=stream):
                work()
        except RuntimeError as error:
            raise UserError(_program.reason(error)) from None

        def launch():
            with self.torch.cuda.stream(stream):
                graph.replay()

        return launch
