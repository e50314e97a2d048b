"""Watch the modules of a network while it computes."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch


@contextlib.contextmanager
def hooked(modules: Mapping[str, torch.nn.Module], function: Callable) -> Iterator[None]:
    """Call function(name, inputs, output) when a module has computed, within the context.

    modules: {name: module}. A result other than None replaces the output.
    """
    with contextlib.ExitStack() as hooks:
        for name, module in modules.items():
            hook = module.register_forward_hook(lambda _, inputs, out, name=name: function(name, inputs, out))
            hooks.enter_context(hook)
        yield
