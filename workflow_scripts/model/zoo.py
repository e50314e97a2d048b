"""Networks by row of the `models` table: timm's definitions with the row's own options, weights never downloaded."""

import difflib

import resolved
from files import UserError

SHOWN = (*resolved.GEOMETRY, *resolved.NORMALIZATION)
MODES = ("center", "squash")  # ways to crop that preprocess.py knows
FILTERS = ("bicubic", "bilinear")  # and to resize
MULTIPLES = (32, 16, 8, 7)  # sizes that networks take are mostly multiples of one of these
ASKED = 2  # classes of a network that is only asked for shapes
PROBLEMS = (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError, OSError, LookupError)


def create(row, classes):
    """Return the row's network in evaluation mode with freshly drawn weights.

    row: {timm, size, options?, ...} of a model's file; classes: outputs of each head.
    The network maps [N, 3, size, size] float32 to [N, classes] logits; a distilled LeViT averages its two heads.
    Its attribute `size` is the row's.
    Raises UserError for a name that timm has not, or options that the network does not take.
    """
    options = row.get("options") or {}
    _check_name(row["timm"])
    resolved.check_options(options)
    try:
        model = _made(row["timm"], classes, options, row["size"])
    except PROBLEMS as error:
        given = dict(options, img_size=row["size"])
        raise UserError(f"models: timm's {row['timm']} cannot be made with {given}: {_said(error)}") from None
    model.size = row["size"]
    return model.eval()


def _check_name(name):
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


def _said(error):
    return " ".join(str(error).split()) or "lengths differ"


def resolve(row):
    """Return what a row of `models` means: {timm, options?, size, ..., sources, contradicts, test}.

    row: {timm, options?} and what it says of `SHOWN`; the rest is timm's record. sources: {key: config.yaml or timm};
    contradicts: {key: {config, timm}} where both say something and not the same; test: {key: timm's value} of what timm
    evaluates with where that differs. Raises UserError where the record is of images that are not served and the row
    says nothing else, and where the network does not take images of that size.
    """
    _check_name(row["timm"])
    recorded, test = record(row["timm"])
    given = {key: row[key] for key in SHOWN if row.get(key) is not None}
    found = {**{key: row[key] for key in ("timm", "options") if row.get(key)}, **recorded, **given}
    _check_served(found)
    check_size(found, recorded["size"])
    differ = {key: {"config": value, "timm": recorded[key]} for key, value in given.items() if value != recorded[key]}
    sources = {key: "config.yaml" if key in given else "timm" for key in SHOWN}
    unsaid = {key: value for key, value in test.items() if key not in given and value != found[key]}
    return {**found, "sources": sources, "contradicts": differ, "test": unsaid}


def record(name):
    """Return ({key of SHOWN: timm's value}, {key: timm's value for evaluation}); a size that is no square is a list."""
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg

    told = get_pretrained_cfg(name)
    told = told.to_dict() if told else {}
    return tuple(_values(resolve_data_config(pretrained_cfg=told, use_test_size=tested)) for tested in (False, True))


def _values(told):
    channels, height, width = told["input_size"]
    if channels != 3:
        raise UserError(f"models: its images have {channels} channels in timm's record, and red, green and blue here")
    lists = {key: [float(value) for value in told[key]] for key in resolved.NORMALIZATION}
    size = height if height == width else [height, width]
    more = {"crop_mode": told["crop_mode"], "interpolation": told["interpolation"]}
    return {"size": size, "crop": float(told["crop_pct"]), **more, **lists}


def _check_served(found):
    """Raise UserError where images would be looked at in a way that preprocess.py has not."""
    served = {"crop_mode": MODES, "interpolation": FILTERS}
    for key, values in served.items():
        if found[key] not in values:
            raise UserError(f"models: {found['timm']}: timm's record has {key} {found[key]}: say {key}: {values[0]}")
    if isinstance(found["size"], list):
        what = "x".join(map(str, found["size"]))
        raise UserError(f"models: {found['timm']}: timm's record has images of {what} pixels, not square: say `size`")


def check_size(row, usual):
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
            logits = create(row, ASKED)(torch.zeros(1, 3, row["size"], row["size"]))
    except UserError as error:
        return str(error).partition("}: ")[2] or str(error)
    except PROBLEMS as error:
        return _said(error)
    shape = getattr(logits, "shape", None)
    return None if shape == (1, ASKED) else f"its output is {shape or type(logits).__name__}, not one vector an image"
