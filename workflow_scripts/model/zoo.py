"""Networks of the `models` table: timm's definitions with the row's options; no weights are downloaded."""

from __future__ import annotations

import difflib

import torch

from core import resolved
from core.files import UserError
from model.timm_modules import timm

PROBLEMS = (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError, OSError, LookupError)


def create(row: dict, classes: int) -> torch.nn.Module:
    """Return the row's network in evaluation mode with random weights.

    row: {timm, size, options?, ...} of a model's file; classes: outputs of each head.
    The network maps float32 [N, 3, size, size] to logits [N, classes]; a distilled LeViT averages its two heads.
    Its attribute `size` is the row's.
    Raises UserError for a name unknown to timm, or options that the network does not take.
    """
    options = row.get("options") or {}
    check_name(row["timm"])
    resolved.check_options(options)
    try:
        model = _create(row["timm"], classes, options, row["size"])
    except PROBLEMS as error:
        options = dict(options, img_size=row["size"])
        raise UserError(f"models: timm's {row['timm']} cannot be created with {options}: {one_line(error)}") from None
    model.size = row["size"]
    return model.eval()


def check_name(name: str) -> None:
    """Raise UserError with similar names if timm has no network of this name."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"models: timm {timm.__version__} has no network named {name!r}{hint}")


def _create(name, classes, options, size):
    """Return timm's network; the image size is passed unless the network takes any size, as convolutions do."""
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, img_size=size, **options)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return timm.create_model(name, pretrained=False, num_classes=classes, **options)


def one_line(error: Exception) -> str:
    """Return an exception's text in one line."""
    return " ".join(str(error).split()) or "lengths differ"
