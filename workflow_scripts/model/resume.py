"""The state of a long job beside its output, `{output}.resume`: a killed job goes on from it, to the same bytes."""

import os

from core.files import replacing


class Resume:
    """One job's state; `key` is of everything that decides its result, so that no other job goes on from it."""

    def __init__(self, output, key):
        self.path, self.key = f"{output}.resume", key

    def load(self):
        """Return the state that was saved under this key, or None; what is damaged or another job's counts as none."""
        import torch

        from model.checkpoint import DAMAGE

        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except DAMAGE:
            return None
        return saved["state"] if isinstance(saved, dict) and saved.get("key") == self.key else None

    def save(self, state):
        """Keep a state of tensors and plain values, in place of an earlier one."""
        import torch

        with replacing(self.path) as partial:
            torch.save({"key": self.key, "state": state}, partial)

    def remove(self):
        """Forget the state: the job is done."""
        if os.path.exists(self.path):
            os.unlink(self.path)
