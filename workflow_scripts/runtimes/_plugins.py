"""TensorRT plugins of this project (plugins/): a library registers its plugins when it is loaded."""

from __future__ import annotations

import ctypes
import functools
import os

from core.files import UserError
from runtimes import PLUGIN, _protobuf

FUNCTIONS = 25  # the field of protobuf's ModelProto
MISSING = ("Plugin not found", "IPluginCreator not found")  # TensorRT's error about a graph's node, an engine's layer


def is_configured() -> bool:
    """Return whether LEVIT_PLUGIN names a library."""
    return bool(os.environ.get(PLUGIN))


@functools.lru_cache(maxsize=None)
def load() -> None:
    """Load the library that LEVIT_PLUGIN names, once; raise UserError where it cannot be loaded."""
    path = os.environ.get(PLUGIN)
    if not path:
        return
    try:
        ctypes.CDLL(os.path.abspath(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        remedy = "delete it and run again, on the machine that it is for"
        raise UserError(f"{PLUGIN}={path} cannot be loaded ({error}): {remedy}") from None


def remedy(reason: str, otherwise: str) -> str:
    """Return the remedy for TensorRT's error: to build the plugin where it lacks one, else `otherwise`."""
    if not any(text in reason for text in MISSING):
        return otherwise
    return f"it needs the attention plugin: set `plugins` in the target's row (docs/tensorrt.md), or {PLUGIN}"


def without_bodies(model: bytes) -> bytes:
    """Return an ONNX file's bytes without its functions; raise UserError where it is not an ONNX file."""
    try:
        return b"".join(whole for number, _, whole in _protobuf.fields(model) if number != FUNCTIONS)
    except LookupError:
        raise UserError("not an ONNX file: delete it and run again") from None
