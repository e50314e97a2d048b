"""torch's compiler, which takes more time to import than torch and which no training or quantization here uses."""

import importlib
import sys
import types
from typing import Any

import torch  # noqa: F401 - in whole, before its compiler is replaced

COMPILER = "torch._dynamo"
# marks of functions that it leaves alone: all that torch, torchvision, timm and modelopt use without compiling
MARKS: dict[str, dict[str, Any]] = {
    COMPILER: {"disable": lambda function=None, *_, **__: function or (lambda same: same), "graph_break": lambda: None},
    f"{COMPILER}.utils": {"is_compile_supported": lambda device: False},
}


class _Postponed(types.ModuleType):
    """A module of the compiler with its marks alone, which loads the compiler when anything else is asked of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (self.__name__, name) != (COMPILER, "__path__"):  # of its submodules
            raise AttributeError(name)
        for module in MARKS:
            if isinstance(sys.modules.get(module), _Postponed):
                del sys.modules[module]
        return getattr(importlib.import_module(self.__name__), name)


def postpone_compiler() -> None:
    """Let imports of torch's compiler load it only when it is used, unless it is loaded already."""
    if COMPILER not in sys.modules:
        for name, marks in MARKS.items():
            sys.modules[name] = _Postponed(name)
            vars(sys.modules[name]).update(marks)
