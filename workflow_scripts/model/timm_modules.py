"""timm, imported without torch's compiler and without Hugging Face's hub: no weights come from there."""

import sys

from model import lazy_compiler

HUB = "huggingface_hub"

lazy_compiler.install()
hidden = HUB not in sys.modules
if hidden:
    sys.modules[HUB] = None  # type: ignore[assignment]
import timm  # noqa: E402
from timm import data, layers, models, utils  # noqa: E402
from timm.models import levit  # noqa: E402

if hidden:
    del sys.modules[HUB]

__all__ = ["data", "layers", "levit", "models", "timm", "utils"]
