"""Libraries imported without their costly parts that nothing here uses, torch's compiler above all."""

import contextlib
import sys
import types
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import torch  # noqa: F401 - in whole, before its compiler is replaced

COMPILER = "torch._dynamo"
T = TypeVar("T")


def load(imports: Callable[[], T], absent: Sequence[str] = ()) -> T:
    """Return what a function that imports returns; it runs again, without replacements, where a version needs more.

    absent: modules that cannot be imported meanwhile.
    """
    with contextlib.suppress(ImportError, AttributeError), _replaced(absent):
        return imports()
    return imports()


@contextlib.contextmanager
def _replaced(absent: Sequence[str]) -> Generator[None, None, None]:
    """Stand in for the compiler: timm marks functions for it, and torchvision asks it which devices it supports."""
    compiler, utils = types.ModuleType(COMPILER), types.ModuleType(f"{COMPILER}.utils")
    compiler.__dict__.update(disable=lambda function=None, *_, **__: function or (lambda same: same))
    utils.__dict__.update(is_compile_supported=lambda device: False)
    modules: dict = {} if COMPILER in sys.modules else {module.__name__: module for module in (compiler, utils)}
    modules.update((name, None) for name in absent if name not in sys.modules)
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
