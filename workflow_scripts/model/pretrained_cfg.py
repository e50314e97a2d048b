"""What a row of `models` means: its own values, and timm's record of the network (pretrained_cfg) for all others."""

from core import resolved
from core.files import UserError
from model import input_size, zoo

SHOWN = (*resolved.GEOMETRY, *resolved.NORMALIZATION)
MODES = ("center", "squash")  # ways to crop that preprocess.py knows
FILTERS = ("bicubic", "bilinear")  # and to resize


def resolve(row):
    """Return what a row of `models` means: {timm, options?, size, ..., sources, contradicts, test}.

    row: {timm, options?} and what it says of `SHOWN`; the rest is timm's record. sources: {key: config.yaml or timm};
    contradicts: {key: {config, timm}} where both say something and not the same; test: {key: timm's value} of what timm
    evaluates with where that differs. Raises UserError where the record is of images that are not served and the row
    says nothing else, and where the network does not take images of that size.
    """
    zoo.check_name(row["timm"])
    recorded, test = record(row["timm"])
    given = {key: row[key] for key in SHOWN if row.get(key) is not None}
    found = {**{key: row[key] for key in ("timm", "options") if row.get(key)}, **recorded, **given}
    _check_served(found)
    input_size.check(found, recorded["size"])
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
