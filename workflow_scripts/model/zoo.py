"""Networks by row of the `models` table: timm's definitions with the row's own options, weights never downloaded."""

import difflib

from files import UserError


def create(row, classes):
    """Return the row's network in evaluation mode with freshly drawn weights.

    row: a row of `models` ({timm, size, options?, ...}); classes: outputs of each head.
    The network maps [N, 3, size, size] float32 to [N, classes] logits; a distilled LeViT averages its two heads.
    Raises UserError for a name that timm has not, or options that the network does not take.
    """
    import timm

    name = row["timm"]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"; near: {', '.join(near)}" if near else ""
        raise UserError(f"models: timm {timm.__version__} has no network named {name!r}{hint}")
    options = dict(row.get("options") or {}, img_size=row["size"])
    try:
        model = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"models: timm's {name} cannot be made with {options}: {error or 'lengths differ'}") from None
    return model.eval()
