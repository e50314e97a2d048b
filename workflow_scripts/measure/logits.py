"""Logits of a session for preprocessed images, and those in a file."""

import numpy as np

from core import progress
from core.files import UserError
from data import cache, preprocess

BATCH = 32  # images at a time, where the engine takes any number


def logits_of(session, name, images, model):
    """Return float32 [N, C] logits of uint8 images [N, size, size, 3], normalized as the model's row says."""
    logits = None
    with progress.bar(len(images), f"evaluate {name}") as bar:
        for start, batch in cache.batches(images, session.batches[-1] if session.batches else BATCH):
            part = session.run(preprocess.normalize(batch, model["mean"], model["std"]))
            logits = np.empty((len(images), part.shape[1]), np.float32) if logits is None else logits
            logits[start : start + len(part)] = part
            bar.update(len(part))
    return logits


def read_logits(path):
    """Return the float32 [N, C] logits in a .npy; raise UserError where it holds something else."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{path} is not a .npy of logits: delete it and run again") from None
