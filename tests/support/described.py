"""A model's file as resolve.py writes it, for tests of one command."""

from core.files import write_json

USUAL = {
    "size": 224,
    "crop": 0.9,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "timm": "levit_128s",
}


def model_file(folder, row, name="model.json"):
    """Write a model's file: `row` over the usual values; return its path as text."""
    path = str(folder / name)
    known = {**USUAL, **row}
    write_json(path, {**known, "sources": dict.fromkeys(USUAL, "timm"), "contradicts": {}})
    return path
