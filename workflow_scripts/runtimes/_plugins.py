"""TensorRT plugins of this project (plugins/): a library registers what it has when it is loaded."""

import ctypes
import functools
import os

from files import UserError

LIBRARY = "LEVIT_PLUGIN"  # environment: path of liblevit_attention.so; without it none is loaded
MISSING = ("Plugin not found", "IPluginCreator not found")  # what TensorRT says of a graph's node, of an engine's layer


@functools.lru_cache(maxsize=None)
def load():
    """Load the plugin's library once; raise UserError where the one that is named cannot be loaded."""
    path = os.environ.get(LIBRARY)
    if not path:
        return
    try:
        ctypes.CDLL(os.path.abspath(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        remedy = "build it on this machine, as plugins/levit_attention/Makefile says"
        raise UserError(f"{LIBRARY}={path} cannot be loaded ({error}): {remedy}") from None


def remedy(reason, otherwise):
    """Return what is to be done where TensorRT gives a reason: about the plugin where it lacks one."""
    if not any(text in reason for text in MISSING):
        return otherwise
    return f"it needs the attention plugin: build that and name it by {LIBRARY} (docs/tensorrt.md)"
