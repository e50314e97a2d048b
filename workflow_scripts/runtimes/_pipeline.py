"""Queries in flight on a GPU, timed by trtexec's definitions.

A query is a copy to the device, the network, and a copy back, each between two events on its own stream; the next
query's copy runs while this one computes, as in trtexec.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from core.files import UserError
from runtimes import Timing, without_gc

log = logging.getLogger("levit")
IN_FLIGHT = 2  # queries: one computes while the next one's images are copied


class Slot:
    """The memory of one query, and the events around its three parts.

    A subclass sets `host` and `device`, {tensor name: memory}, of which the first tensor is the images.
    """

    host: dict[str, Any]
    device: dict[str, Any]

    def __init__(self, event: Callable[..., Any], spin: bool):
        """event: returns an event; spin: whether the CPU spins while it waits for one."""
        self.events = [event(blocking=not spin) for _ in range(6)]
        self.enqueue_ms = 0.0
        self.work: Callable[[], Any] = bool  # enqueues the network; the pipeline sets it

    def copy_in(self, stream: Any) -> None:
        """Enqueue the copy of the images to the device."""
        raise NotImplementedError

    def copy_out(self, stream: Any) -> None:
        """Enqueue the copy of the logits to the host."""
        raise NotImplementedError


class Pipeline:
    """Queries in flight on three streams: copies in, the network, copies out."""

    def __init__(self, session: Any, slots: list[Any], options: dict):
        """Prepare the slots, whose host memory holds the images, and capture their work in CUDA graphs.

        session: has Stream() and Event(blocking=), whose methods are named as torch's; enqueuer(slot, stream) returns a
        function that enqueues the network; capture(stream, work) returns a function that launches what `work()`
        enqueues. options: {cuda_graph, transfers}, each on where it is not given.
        """
        self.name, self.slots, self.transfers = session.name, slots, options.get("transfers", True)
        self.streams, self.begin = [session.Stream() for _ in range(3)], session.Event()
        for slot in slots:
            self._prepare(slot, session)
        self.graphs = bool(options.get("cuda_graph", True)) and self._capture(session)

    def _prepare(self, slot, session):
        compute = self.streams[1]
        slot.work = session.enqueuer(slot, compute)
        slot.copy_in(compute)
        slot.work()  # TensorRT sets itself up for a shape in the first query with it
        compute.synchronize()

    def _capture(self, session):
        """Capture each slot's network in a CUDA graph; return whether that succeeded, and log why it did not."""
        compute = self.streams[1]
        try:
            graphs = [session.capture(compute, slot.work) for slot in self.slots]
        except UserError as error:
            log.info("%s: without a CUDA graph: %s", self.name, error)
            return False
        for slot, graph in zip(self.slots, graphs):
            slot.work = graph
            slot.work()
        compute.synchronize()
        return True

    def submit(self, slot: Slot) -> None:
        """Enqueue a query."""
        arrive, compute, leave = self.streams
        in_start, in_end, start, end, out_start, out_end = slot.events
        if self.transfers:
            in_start.record(arrive)
            slot.copy_in(arrive)
            in_end.record(arrive)
            compute.wait_event(in_end)
        start.record(compute)
        before = time.perf_counter_ns()
        slot.work()
        slot.enqueue_ms = (time.perf_counter_ns() - before) / 1e6
        end.record(compute)
        if self.transfers:
            leave.wait_event(end)
            out_start.record(leave)
            slot.copy_out(leave)
            out_end.record(leave)

    def retire(self, slot: Slot) -> tuple[float, float, float, float]:
        """Wait for a query; return its milliseconds (to the device, network, to the host, enqueue)."""
        in_start, in_end, start, end, out_start, out_end = slot.events
        (out_end if self.transfers else end).synchronize()
        moved = (in_start.elapsed_time(in_end), out_start.elapsed_time(out_end)) if self.transfers else (0.0, 0.0)
        return moved[0], start.elapsed_time(end), moved[1], slot.enqueue_ms

    def run(self, loop: Any) -> Timing:
        """Warm up, then time queries as the loop says; return the Timing."""
        self._queries(lambda count, past: past >= loop.warmup_ms and count >= len(self.slots))
        with without_gc():
            before = loop.meter and loop.meter.energy_mj()
            self.begin.record(self.streams[0 if self.transfers else 1])
            rows, last = self._queries(lambda count, past: past >= loop.duration_ms and count >= loop.iterations)
            after = loop.meter and loop.meter.energy_mj()
        wall = self.begin.elapsed_time(last) / 1e3
        h2d, compute, d2h, enqueue = np.array(rows, dtype=np.float64).T
        energy = after - before if before is not None and after is not None else None
        moved = (h2d, d2h) if self.transfers else (None, None)
        return Timing(h2d + compute + d2h, compute, moved[0], moved[1], enqueue, wall, energy)

    def _queries(self, enough):
        """Run queries until enough(submitted, milliseconds) is true; return (rows, event of the last one's end)."""
        rows, count, start, depth = [], 0, time.perf_counter(), len(self.slots)
        while True:
            slot = self.slots[count % depth]
            if count >= depth:
                rows.append(self.retire(slot))
            if enough(count, 1e3 * (time.perf_counter() - start)):
                break
            self.submit(slot)
            count += 1
        in_flight = [self.slots[number % depth] for number in range(count - depth + 1, count)]
        rows += map(self.retire, in_flight)
        return rows, in_flight[-1].events[5 if self.transfers else 3]
