"""TensorRT plugins of this project (plugins/): a library registers what it has when it is loaded."""

import ctypes
import functools
import os

from files import UserError

LIBRARY = "LEVIT_PLUGIN"  # environment: path of liblevit_attention.so; without it none is loaded


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
