"""The resolved preprocessing of a model, results/{dataset}/models/{model}.json, as resolve.py writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.files import UserError, canonical, read_json

GEOMETRY = ("size", "crop", "crop_mode", "interpolation")  # decide the pixels
NORMALIZATION = ("mean", "std")  # decide the network's input
NETWORK = ("timm", "options", "size")
VISION = (*NETWORK, *NORMALIZATION)
AUGMENTED = (*NETWORK, *GEOMETRY, *NORMALIZATION)

REMEDIES = {  # of arguments of timm that only part of the workflow would follow
    "in_chans": "images have three channels: red, green and blue",
    "num_classes": "it is `classes` in the dataset's row",
    "img_size input_size": "say `size` in the model's row",
    "pretrained checkpoint_path cache_dir pretrained_strict": "weights come from the dataset's row (weights)",
    "pretrained_cfg pretrained_cfg_overlay": "say size, crop, crop_mode, interpolation, mean, std in the model's row",
    "features_only out_indices feature_cls": "accuracy is measured on the logits of a classifier",
    "scriptable exportable no_jit": "the export sets it",
    "device dtype": "the precision and the target decide it",
}
REFUSED = {name: remedy for names, remedy in REMEDIES.items() for name in names.split()}


def check_options(options: Iterable[str] | None) -> None:
    """Raise UserError that names the first of a model's `options` that is REFUSED."""
    for name in options or {}:
        if name in REFUSED:
            raise UserError(f"options: {name}: remove it: {REFUSED[name]}")


def read(path: str, keys: Iterable[str]) -> dict[str, Any]:
    """Return {key: value} of a model's file; raise UserError for a missing key other than `options`."""
    model = read_json(path)
    missing = [key for key in keys if key not in model and key != "options"]
    if missing:
        raise UserError(f"{path} has no {missing[0]}: resolve.py did not write it: delete it and run again")
    return {key: model[key] for key in keys if key in model}


def format_values(model: dict[str, Any]) -> str:
    """Return the values of a resolved model for a log, each with its source."""
    return ", ".join(f"{key} {canonical(model[key])} ({model['sources'][key]})" for key in (*GEOMETRY, *NORMALIZATION))
