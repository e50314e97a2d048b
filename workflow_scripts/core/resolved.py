"""What a model looks at and how it is normalized, as resolve.py wrote it: results/{dataset}/models/{model}.json.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

from core.files import UserError, canonical, read_json

GEOMETRY = ("size", "crop", "crop_mode", "interpolation")  # decides the pixels
NORMALIZATION = ("mean", "std")  # decides the network's input
NETWORK = ("timm", "options", "size")
VISION = (*NETWORK, *NORMALIZATION)
AUGMENTED = (*NETWORK, *GEOMETRY, *NORMALIZATION)

WEIGHTS = "weights come from the dataset's row (weights)"
RECORD = "say size, crop, crop_mode, interpolation, mean and std in the model's row"
LOGITS = "what is measured are the logits of a classifier"
EXPORT = "the export decides that"
REFUSED = {  # arguments of timm's that would be followed in part alone, each with what to do
    "in_chans": "images have three channels here, red, green and blue",
    "num_classes": "it is `classes` in the dataset's row",
    **dict.fromkeys(("img_size", "input_size"), "say `size` in the model's row"),
    **dict.fromkeys(("pretrained", "checkpoint_path", "cache_dir", "pretrained_strict"), WEIGHTS),
    **dict.fromkeys(("pretrained_cfg", "pretrained_cfg_overlay"), RECORD),
    **dict.fromkeys(("features_only", "out_indices", "feature_cls"), LOGITS),
    **dict.fromkeys(("scriptable", "exportable", "no_jit"), EXPORT),
    **dict.fromkeys(("device", "dtype"), "the precision and the target decide that"),
}


def check_options(options):
    """Raise UserError naming the first argument of a model's `options` that would be followed in part alone."""
    for name in options or {}:
        if name in REFUSED:
            raise UserError(f"options: {name}: take it out: {REFUSED[name]}")


def read(path, keys):
    """Return {key: value} of a model's file; `options` is left out where it has none, other keys raise UserError."""
    found = read_json(path)
    missing = [key for key in keys if key not in found and key != "options"]
    if missing:
        raise UserError(f"{path} has no {missing[0]}: it is not what resolve.py writes: delete it and run again")
    return {key: found[key] for key in keys if key in found}


def shown(model):
    """Return what a log says of a model: each value, and whose it is."""
    return ", ".join(f"{key} {canonical(model[key])} ({model['sources'][key]})" for key in (*GEOMETRY, *NORMALIZATION))
