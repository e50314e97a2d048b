"""Resolve a row of `models`: its own values, and those of timm's pretrained_cfg for all others."""

from core import resolved
from core.files import UserError
from data import preprocess
from model import input_size, zoo
from model.timm_modules import data, models

KEYS = (*resolved.GEOMETRY, *resolved.NORMALIZATION)
MODES = ("center", "squash")  # crop modes of preprocess.py


def resolve(row: dict) -> dict:
    """Return the resolved row of `models`: {timm, options?, size, ..., sources, contradicts, test}.

    row: {timm, options?} and any of KEYS; timm's record gives the others. sources: {key: config.yaml or timm};
    contradicts: {key: {config, timm}} where both have values that differ; test: {key: value} where timm evaluates with
    another value. Raises UserError if the resolved preprocessing is not supported, or if the network does not take
    images of that size.
    """
    zoo.check_name(row["timm"])
    recorded, test = record(row["timm"])
    chosen = {key: row[key] for key in KEYS if row.get(key) is not None}
    resolved_row = {**{key: row[key] for key in ("timm", "options") if row.get(key)}, **recorded, **chosen}
    _check_supported(resolved_row)
    input_size.check(resolved_row, recorded["size"])
    differ = {key: {"config": value, "timm": recorded[key]} for key, value in chosen.items() if value != recorded[key]}
    sources = {key: "config.yaml" if key in chosen else "timm" for key in KEYS}
    other = {key: value for key, value in test.items() if key not in chosen and value != resolved_row[key]}
    return {**resolved_row, "sources": sources, "contradicts": differ, "test": other}


def record(name: str) -> tuple[dict, dict]:
    """Return timm's values of KEYS, and those for evaluation; a size that is not square is a list."""
    cfg = models.get_pretrained_cfg(name)
    cfg = cfg.to_dict() if cfg else {}
    train, test = (data.resolve_data_config(pretrained_cfg=cfg, use_test_size=tested) for tested in (False, True))
    return _values(train), _values(test)


def _values(config):
    channels, height, width = config["input_size"]
    if channels != 3:
        raise UserError(f"models: timm's record has images of {channels} channels: 3 (red, green, blue) are supported")
    lists = {key: [float(value) for value in config[key]] for key in resolved.NORMALIZATION}
    size = height if height == width else [height, width]
    more = {"crop_mode": config["crop_mode"], "interpolation": config["interpolation"]}
    return {"size": size, "crop": float(config["crop_pct"]), **more, **lists}


def _check_supported(row):
    """Raise UserError if preprocess.py lacks the resolved crop mode, interpolation or shape of images."""
    supported = {"crop_mode": MODES, "interpolation": [*preprocess.FILTERS]}
    for key, values in supported.items():
        if row[key] not in values:
            raise UserError(f"models: {row['timm']}: timm's record has {key} {row[key]}: set {key}: {values[0]}")
    if isinstance(row["size"], list):
        pixels = "x".join(map(str, row["size"]))
        raise UserError(f"models: {row['timm']}: timm's record has images of {pixels} pixels, not square: set `size`")
