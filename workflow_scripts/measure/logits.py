"""Logits of a session for preprocessed images, and those in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core import progress
from core.files import UserError
from data import cache, preprocess

BATCH = 32  # images at a time, where the engine takes any batch


def logits_of(session: Any, name: str, images: np.ndarray, model: Mapping) -> np.ndarray:
    """Return float32 [N, C] logits of uint8 images [N, size, size, 3], normalized as the model's row says."""
    logits = np.empty((0, 0), np.float32)
    with progress.bar(len(images), f"evaluate {name}") as bar:
        for start, batch in cache.batches(images, session.batches[-1] if session.batches else BATCH):
            part = session.run(preprocess.for_session(session, batch, model))
            if start == 0:
                logits = np.empty((len(images), part.shape[1]), np.float32)
            logits[start : start + len(part)] = part
            bar.update(len(part))
    return logits


def read_logits(path: str) -> np.ndarray:
    """Return the float32 [N, C] logits of a .npy file; raise UserError where it holds something else."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{path} is not a .npy of logits: delete it and run again") from None
