"""The saved state of a long job, `{output}.resume`, from which a killed job continues to the same bytes."""

from pathlib import Path

import torch

from core.files import replacing
from model.checkpoint import DAMAGE


class Resume:
    """One job's state; `key` hashes all that its result depends on but the processes, so that no other job uses it."""

    def __init__(self, output: str, key: str, processes: int = 1) -> None:
        """Prepare. output: the job's; key: of core/command.py; processes: how many share a batch from now on."""
        self.path, self.key, self.processes, self.history = f"{output}.resume", key, processes, []

    def load(self) -> dict | None:
        """Return the state saved with this key, or None if there is none, or a damaged one or another job's.

        `history` becomes the numbers of processes that shared batches so far, the first one first.
        """
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except DAMAGE:
            return None
        if not isinstance(saved, dict) or saved.get("key") != self.key:
            return None
        self.history = saved["history"]
        return saved["state"]

    def save(self, state: dict) -> None:
        """Replace the saved state; state: tensors and plain values."""
        history = self.history if self.history[-1:] == [self.processes] else [*self.history, self.processes]
        with replacing(self.path) as partial:
            torch.save({"key": self.key, "history": history, "state": state}, partial)

    def remove(self) -> None:
        """Delete the state of a finished job."""
        Path(self.path).unlink(missing_ok=True)
