"""Logits of a session for preprocessed images, and those in a file."""

import numpy as np

import progress
from data import preprocess
from files import UserError

BATCH = 32  # images at a time, where the engine takes any number


def logits_of(session, name, images, model):
    """Return float32 [N, C] logits of uint8 images [N, size, size, 3], normalized as the model's row says."""
    step = session.batches[-1] if session.batches else BATCH
    parts = []
    with progress.bar(len(images), f"evaluate {name}") as bar:
        for start in range(0, len(images), step):
            batch = preprocess.normalize(images[start : start + step], model["mean"], model["std"])
            parts.append(session.run(batch))
            bar.update(len(batch))
    return np.concatenate(parts)


def read_logits(path):
    """Return the float32 [N, C] logits in a .npy; raise UserError where it holds something else."""
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{path} is not a .npy of logits: delete it and run again") from None
