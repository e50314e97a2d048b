"""A PyTorch network on a GPU, timed by the pipeline of runtimes/_gpu.py: with torch's own memory, streams and graphs.

torch's allocator must know of every stream and capture, so that CUDA is not called past it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from core.files import UserError
from runtimes import Session, Timing, _gpu, _program


class Event:
    """A point in a stream's time. blocking: the CPU sleeps while it waits for it, else it spins."""

    def __init__(self, blocking: bool = False):
        self.event = _program.library().cuda.Event(enable_timing=True, blocking=blocking)

    def record(self, stream: Stream) -> None:
        """Let the event happen when the stream's work until now is done."""
        self.event.record(stream.stream)

    def wait(self) -> None:
        """Wait for the event."""
        self.event.synchronize()

    def since(self, earlier: Event) -> float:
        """Return the milliseconds since another event; both must have happened."""
        return earlier.event.elapsed_time(self.event)


class Stream:
    """A queue of work on the GPU."""

    def __init__(self) -> None:
        self.torch = _program.library()
        self.stream = self.torch.cuda.Stream()

    def wait(self) -> None:
        """Wait for all work of the stream."""
        self.stream.synchronize()

    def wait_for(self, event: Event) -> None:
        """Let later work of the stream wait for an event."""
        self.stream.wait_event(event.event)

    def copy(self, target: Any, source: Any, nbytes: int) -> None:
        """Enqueue a copy of a tensor."""
        with self.torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)

    to_device = to_host = copy

    def capture(self, work: Any) -> Graph:
        """Return a Graph of the work that `work()` enqueues; raise UserError where it cannot be captured."""
        graph = self.torch.cuda.CUDAGraph()
        try:
            with self.torch.cuda.graph(graph, stream=self.stream):
                work()
        except RuntimeError as error:
            raise UserError(_program.reason(error)) from None
        return Graph(graph)


class Graph:
    """A CUDA graph: captured work that is launched as one."""

    def __init__(self, graph: Any):
        self.graph = graph

    def launch(self, stream: Stream) -> None:
        """Enqueue the graph."""
        with stream.torch.cuda.stream(stream.stream):
            self.graph.replay()


def clear_error() -> None:
    """Do nothing: torch raises an error once."""


class Slot:
    """Pinned and device memory for one query, and the events around its three parts; see _gpu.Slot."""

    def __init__(self, shapes: dict[str, list[int]], spin: bool):
        torch = _program.library()
        self.host = {name: torch.zeros(shape, pin_memory=True) for name, shape in shapes.items()}
        self.device = {name: torch.zeros(shape, device="cuda") for name, shape in shapes.items()}
        self.events = [Event(blocking=not spin) for _ in range(6)]
        self.enqueue_ms, self.work = 0.0, bool


class CudaSession(Session):
    """A network on the current GPU. Queries run on a stream of the session's own."""

    on_gpu = True
    Stream, Event, clear_error = Stream, Event, staticmethod(clear_error)
    source, target = "x", "logits"

    def __init__(self, path: str, network: Any, size: list[int], batches: list[int] | None):
        self.torch = _program.library()
        self.name, self.batches, self.network = path, batches, network
        self.inputs, self.outputs = {self.source: [-1, *size]}, {self.target: [-1, -1]}
        self.facts = {"threads": None, "cuda_graph": False}
        self.stream = Stream()

    def _logits(self, images):
        """Return the network's logits on the current stream."""
        with self.torch.inference_mode():
            return self.network(images)

    def _run_batch(self, part):
        count, size = len(part), self._fitting(len(part))
        padded = np.zeros((max(count, size),) + part.shape[1:], np.float32)
        padded[:count] = part
        with self.torch.cuda.stream(self.stream.stream):
            return self._logits(self.torch.from_numpy(padded).cuda())[:count].cpu().numpy()

    def time(self, images: np.ndarray, loop: Any) -> Timing:
        """Return the Timing. loop.options: {cuda_graph, spin_wait, transfers}, each on where it is not given."""
        images = self._timed(images)
        options = {**_gpu.OPTIONS, **loop.options}
        shapes = {self.source: images.shape, self.target: self.run(images).shape}
        slots = [Slot(shapes, options["spin_wait"]) for _ in range(_gpu.IN_FLIGHT)]
        for slot in slots:
            slot.host[self.source].copy_(self.torch.from_numpy(images))
        pipeline = _gpu.Pipeline(self, 0, len(images), slots, options)
        self.facts = {"threads": None, "cuda_graph": pipeline.graphs}
        return pipeline.run(loop)

    # What the pipeline asks of a session

    def _enqueuer(self, number, batch, slot, stream):
        def enqueue():
            with self.torch.cuda.stream(stream.stream):
                slot.device[self.target] = self._logits(slot.device[self.source])

        return enqueue

    def _enqueue(self, enqueue):
        enqueue()

    def _copy(self, copy, target, source, name):
        copy(target[name], source[name], source[name].nbytes)
