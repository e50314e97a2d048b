"""TensorRT plugins of this project (plugins/): a library registers what it has when it is loaded."""

import ctypes
import functools
import os

from core.files import UserError

LIBRARY = "LEVIT_PLUGIN"  # environment: path of liblevit_attention.so; without it none is loaded
FUNCTIONS = 25
MISSING = ("Plugin not found", "IPluginCreator not found")  # what TensorRT says of a graph's node, of an engine's layer


def is_named():
    """Return whether there is a plugin to use."""
    return bool(os.environ.get(LIBRARY))


@functools.lru_cache(maxsize=None)
def load():
    """Load the plugin's library once; raise UserError where the one that is named cannot be loaded."""
    path = os.environ.get(LIBRARY)
    if not is_named():
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


def without_bodies(model):
    """Return an ONNX file's bytes without its functions, which are field 25 of protobuf's ModelProto."""
    kept, place = [], 0
    while place < len(model):
        start = place
        tag, place = _varint(model, place)
        if tag & 7 == 0:
            _, place = _varint(model, place)
        elif tag & 7 == 2:
            size, place = _varint(model, place)
            place += size
        else:
            raise UserError("not an ONNX file: delete it and run again")
        if tag >> 3 != FUNCTIONS:
            kept.append(model[start:place])
    return b"".join(kept)


def _varint(data, place):
    value, shift = 0, 0
    while True:
        byte = data[place]
        value, place, shift = value | (byte & 127) << shift, place + 1, shift + 7
        if byte < 128:
            return value, place
