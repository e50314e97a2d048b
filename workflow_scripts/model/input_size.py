"""The sizes of images that a network takes, found by asking it: only shapes are computed."""

from core.files import UserError
from model import zoo

MULTIPLES = (32, 16, 8, 7)  # sizes that networks take are mostly multiples of one of these
ASKED = 2  # classes of a network that is only asked for shapes


def check(row, usual):
    """Raise UserError where a row's network does not give logits for images of its size; usual: timm's size."""
    problem = _problem(row)
    if problem is None:
        return
    near = [size for size in _near(row["size"], usual) if _problem(dict(row, size=size)) is None][:2]
    if not near:
        raise UserError(f"models: timm's {row['timm']} with {row.get('options') or {}} gives no logits: {problem}")
    sizes = " or ".join(map(str, near))
    raise UserError(f"models: size: {row['size']}: timm's {row['timm']} takes no such images ({problem}): {sizes} fits")


def _near(size, usual):
    """Return sizes that may fit instead of one, the nearest first, timm's own last."""
    around = {step * (size // step + up) for step in MULTIPLES for up in (0, 1)} - {0, size}
    return [*sorted(around, key=lambda other: abs(other - size)), *([usual] if isinstance(usual, int) else [])]


def _problem(row):
    """Return why a row's network gives no logits of [1, classes] for an image, or None; only shapes are computed."""
    import torch

    try:
        with torch.device("meta"), torch.no_grad():
            logits = zoo.create(row, ASKED)(torch.zeros(1, 3, row["size"], row["size"]))
    except UserError as error:
        return str(error).partition("}: ")[2] or str(error)
    except zoo.PROBLEMS as error:
        return zoo.said(error)
    shape = getattr(logits, "shape", None)
    return None if shape == (1, ASKED) else f"its output is {shape or type(logits).__name__}, not one vector an image"
