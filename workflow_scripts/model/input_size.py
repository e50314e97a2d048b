"""Check the image size of a network by running it on the meta device, where only shapes are computed."""

import torch

from core.files import UserError
from model import zoo

MULTIPLES = (32, 16, 8, 7)  # image sizes are mostly multiples of one of these
CLASSES = 2  # of the network that is run


def check(row: dict, default: int | list[int]) -> None:
    """Raise UserError if a row's network gives no logits for images of its size; default: timm's size."""
    problem = _problem(row)
    if problem is None:
        return
    fitting = [size for size in _near(row["size"], default) if _problem(dict(row, size=size)) is None][:2]
    if not fitting:
        raise UserError(f"models: timm's {row['timm']} with {row.get('options') or {}} gives no logits: {problem}")
    sizes = " or ".join(map(str, fitting))
    raise UserError(f"models: size: {row['size']}: timm's {row['timm']} takes no such images ({problem}): {sizes} fits")


def _near(size, default):
    """Return sizes that may fit instead, nearest first, timm's own last."""
    around = {step * (size // step + up) for step in MULTIPLES for up in (0, 1)} - {0, size}
    return [*sorted(around, key=lambda other: abs(other - size)), *([default] if isinstance(default, int) else [])]


def _problem(row):
    """Return why a row's network gives no logits of shape [1, classes] for an image, or None."""
    try:
        with torch.device("meta"), torch.no_grad():
            logits = zoo.create(row, CLASSES)(torch.zeros(1, 3, row["size"], row["size"]))
    except UserError as error:
        return str(error).partition("}: ")[2] or str(error)
    except zoo.PROBLEMS as error:
        return zoo.one_line(error)
    shape = getattr(logits, "shape", None)
    return None if shape == (1, CLASSES) else f"its output is {shape or type(logits).__name__}, not a vector per image"
