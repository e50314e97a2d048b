"""Watch the modules of a network while it computes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch


@contextlib.contextmanager
def hooked(modules: Mapping[str, torch.nn.Module], function: Callable) -> Iterator[None]:
    """Within the context, call function(name, inputs, output) after each of {name: module}; a result replaces it."""
    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            hook = module.register_forward_hook(lambda _, inputs, out, name=name: function(name, inputs, out))
            hooks.enter_context(hook)
        yield
