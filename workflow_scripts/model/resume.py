"""The saved state of a long job, `{output}.resume`, from which a killed job continues to the same bytes."""

from pathlib import Path

import torch

from core.files import replacing
from model.checkpoint import DAMAGE


class Resume:
    """One job's state; `key` hashes everything that its result depends on, so that no other job uses it."""

    def __init__(self, output: str, key: str) -> None:
        self.path, self.key = f"{output}.resume", key

    def load(self) -> dict | None:
        """Return the state saved with this key, or None if there is none, or a damaged one or another job's."""
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except DAMAGE:
            return None
        return saved["state"] if isinstance(saved, dict) and saved.get("key") == self.key else None

    def save(self, state: dict) -> None:
        """Replace the saved state; state: tensors and plain values."""
        with replacing(self.path) as partial:
            torch.save({"key": self.key, "state": state}, partial)

    def remove(self) -> None:
        """Delete the state of a finished job."""
        Path(self.path).unlink(missing_ok=True)
