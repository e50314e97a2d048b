"""timm, imported without torch's compiler, which takes two thirds of the import's time and which nothing here uses."""

import contextlib
import sys
import types
from collections.abc import Generator

import torch  # noqa: F401 - in whole, before its compiler is replaced


@contextlib.contextmanager
def _compiler_replaced() -> Generator[None, None, None]:
    """Stand in for the compiler: timm marks functions for it, and torchvision asks it which devices it supports."""
    compiler, utils = types.ModuleType("torch._dynamo"), types.ModuleType("torch._dynamo.utils")
    compiler.__dict__.update(disable=lambda function=None, *_, **__: function or (lambda same: same))
    utils.__dict__.update(is_compile_supported=lambda device: False)
    modules = {module.__name__: module for module in (compiler, utils)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


if "torch._dynamo" not in sys.modules:
    with contextlib.suppress(ImportError, AttributeError), _compiler_replaced():
        import timm
import timm  # noqa: E402 - again, and with the compiler, where another version needs more of it
from timm import data, layers, models, utils  # noqa: E402
from timm.models import levit  # noqa: E402

__all__ = ["data", "layers", "levit", "models", "timm", "utils"]
