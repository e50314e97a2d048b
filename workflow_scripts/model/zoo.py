"""Networks by row of the `models` table: timm's definitions with the row's own options, weights never downloaded."""

import difflib

from core import resolved
from core.files import UserError

PROBLEMS = (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError, OSError, LookupError)


def create(row, classes):
    """Return the row's network in evaluation mode with freshly drawn weights.

    row: {timm, size, options?, ...} of a model's file; classes: outputs of each head.
    The network maps [N, 3, size, size] float32 to [N, classes] logits; a distilled LeViT averages its two heads.
    Its attribute `size` is the row's.
    Raises UserError for a name that timm has not, or options that the network does not take.
    """
    options = row.get("options") or {}
    check_name(row["timm"])
    resolved.check_options(options)
    try:
        model = _made(row["timm"], classes, options, row["size"])
    except PROBLEMS as error:
        given = dict(options, img_size=row["size"])
        raise UserError(f"models: timm's {row['timm']} cannot be made with {given}: {said(error)}") from None
    model.size = row["size"]
    return model.eval()


def check_name(name):
    """Raise UserError with the nearest names where timm has no network of that name."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"models: timm {timm.__version__} has no network named {name!r}{hint}")


def _made(name, classes, options, size):
    """Return timm's network, told its images' size where it is made for one: convolutions alone take any."""
    import timm

    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, img_size=size, **options)
    except TypeError as error:
        if "'img_size'" not in str(error):
            raise
    return timm.create_model(name, pretrained=False, num_classes=classes, **options)


def said(error):
    """Return in one line what an exception says."""
    return " ".join(str(error).split()) or "lengths differ"
