"""timm, imported without torch's compiler and without the hub of weights."""

import importlib

from model import lean

timm = lean.load(lambda: importlib.import_module("timm"), absent=["huggingface_hub"])
from timm import data, layers, models, utils  # noqa: E402
from timm.models import levit  # noqa: E402

__all__ = ["data", "layers", "levit", "models", "timm", "utils"]
