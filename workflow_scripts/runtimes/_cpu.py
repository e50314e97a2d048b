"""What the runtimes for CPUs share: how many threads, queries in chunks, timing from the host's clock."""

import os

import numpy as np

from core.files import UserError
from runtimes import Session, Timing


def threads_of(count):
    """Return a number of threads: `count`, or for 0 all the CPUs that this process may use."""
    if count < 0:
        raise UserError(f"threads: {count}: a positive number, or 0 for all cores")
    if count:
        return count
    try:
        return max(len(os.sched_getaffinity(0)), 1)
    except AttributeError:
        return os.cpu_count() or 1


class CpuSession(Session):
    """A session on the host: a subclass sets inputs, outputs, batches, facts and implements `query`."""

    name = "engine"

    def query(self, images):
        """Return (run, output): `run()` is one inference of `images` without copies, `output()` its logits [N, C]."""
        raise NotImplementedError

    def run(self, images):
        images = np.ascontiguousarray(images, dtype=np.float32)
        self._check(images)
        results, start = [], 0
        while start < len(images):
            size = self._fitting(len(images) - start)
            part = images[start : start + size]
            results.append(self._run_padded(part, size)[: len(part)])
            start += size
        return np.concatenate(results)

    def time(self, images, loop):
        images = np.ascontiguousarray(images, dtype=np.float32)
        self._check(images)
        if self.batches and len(images) not in self.batches:
            built = ", ".join(map(str, self.batches))
            raise UserError(f"{self.name} has no batch {len(images)}, only {built}: add it to the target's batches")
        run, _ = self.query(images)
        latency, wall = loop.run(run)
        return Timing(latency, latency, None, None, None, wall)

    def _fitting(self, count):
        """Return the largest batch of at most `count`, else the smallest there is; any where the engine is free."""
        if not self.batches:
            return count
        return max((size for size in self.batches if size <= count), default=min(self.batches))

    def _run_padded(self, part, size):
        if len(part) < size:
            part = np.concatenate([part, np.zeros((size - len(part),) + part.shape[1:], np.float32)])
        run, output = self.query(part)
        run()
        return np.array(output())

    def _check(self, images):
        expected = list(next(iter(self.inputs.values())))[1:]
        if images.ndim != 4 or len(images) == 0 or any(e not in (-1, g) for e, g in zip(expected, images.shape[1:])):
            raise UserError(f"{self.name} takes images of {expected}, got {list(images.shape)}")
