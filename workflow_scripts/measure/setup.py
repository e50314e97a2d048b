"""What every timing begins with: the meter of the device that computes, its power mode, the images of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.files import UserError

if TYPE_CHECKING:
    import numpy as np

OPTIONS = ("cuda_graph", "spin_wait", "transfers")  # keys of a recipe that decide how a query runs


def meter_of(on_gpu: bool):
    """Return what reads the state of the device that computes (measure/gpu.py, measure/timing.py)."""
    from measure import gpu, timing

    return gpu.meter() if on_gpu else timing.Host()


def check_power_mode(recipe: dict, found: str | None) -> None:
    """Raise UserError where the recipe asks for a power mode that the device is not in."""
    from devices import power_modes

    reason = power_modes.refusal(recipe, found)
    if reason:
        raise UserError(reason)


def images_for(session, batch: int) -> np.ndarray:
    """Return float32 [batch, 3, H, W] of normal noise: what an image shows does not change how long it takes."""
    import numpy as np

    shape = [batch] + list(next(iter(session.inputs.values())))[1:]
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
