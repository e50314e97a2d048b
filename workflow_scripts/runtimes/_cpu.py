"""What the CPU runtimes share: the number of threads, padded queries, timing on the host's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from core import processors
from core.files import UserError
from runtimes import Session, Timing


def threads_of(count: int) -> int:
    """Return a number of threads: `count`, or for 0 the number of CPUs that this process may use."""
    if count < 0:
        raise UserError(f"threads: {count}: a positive number, or 0 for all cores")
    return count or processors.available()


class CpuSession(Session):
    """A session on the host: a subclass sets inputs, outputs, batches, facts and implements `query`."""

    def query(self, images: np.ndarray) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
        """Return (run, output): `run()` is one inference of `images` without copies, `output()` its logits [N, C]."""
        raise NotImplementedError

    def time(self, images: np.ndarray, loop: Any) -> Timing:
        """Return the Timing of inferences without copies; raise UserError where the batch was not built."""
        images = self._timed(images)
        run, _ = self.query(images)
        latency, wall = loop.run(run)
        return Timing(latency, latency, None, None, None, wall)

    def _run_batch(self, part):
        count, size = len(part), self._fitting(len(part))
        if count < size:
            part = np.concatenate([part, np.zeros((size - count,) + part.shape[1:], part.dtype)])
        part = np.require(part, requirements="W")  # OpenVINO shares no read-only memory, such as a memory map's
        run, output = self.query(part)
        run()
        return np.array(output()[:count])
