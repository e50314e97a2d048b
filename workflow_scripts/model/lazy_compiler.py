"""torch's compiler, imported when it is used: that takes a second, and training and quantization here do without."""

import importlib
import importlib.abc
import importlib.util
import sys
import types
from typing import Any

import torch  # noqa: F401 - in whole, before its compiler is replaced

COMPILER = "torch._dynamo"
# what torch, torchvision, timm and modelopt call without compiling: marks of functions to leave alone
MARKS: dict[str, dict[str, Any]] = {
    COMPILER: {"disable": lambda function=None, *_, **__: function or (lambda same: same), "graph_break": lambda: None},
    f"{COMPILER}.utils": {"is_compile_supported": lambda device: False},
}


class _Lazy(types.ModuleType):
    """A module of the compiler with its marks alone, which loads the compiler when anything else is asked of it."""

    def __getattr__(self, name: str) -> Any:
        searched = (self.__name__, name) == (COMPILER, "__path__")  # for a submodule
        if name.startswith("__") and not searched:
            raise AttributeError(name)
        for module in MARKS:
            if isinstance(sys.modules.get(module), _Lazy):
                del sys.modules[module]
        real = importlib.import_module(self.__name__)
        if searched:
            sys.meta_path.insert(0, _Loaded())
        return getattr(real, name)


class _Loaded(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the submodule whose import has loaded the compiler, once: it may be loaded by now, and stays the same."""

    def find_spec(self, name, path, target=None):
        sys.meta_path.remove(self)
        self.module = sys.modules.get(name) if name.startswith(f"{COMPILER}.") else None
        self.spec = getattr(self.module, "__spec__", None)
        return importlib.util.spec_from_loader(name, self) if self.module else None

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec


def install() -> None:
    """Let imports of torch's compiler load it only when it is used, unless it is loaded already."""
    if COMPILER not in sys.modules:
        for name, marks in MARKS.items():
            sys.modules[name] = _Lazy(name)
            vars(sys.modules[name]).update(marks)
