"""Weights as files: read strictly and as tensors only, under either of the known names, written reproducibly."""

import argparse
import collections
import functools
import io
import os
import pickle
from pathlib import Path

from core.files import UserError
from model import formats, mismatch, unreadable

DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")  # of files that a folder is looked through for
LISTED = 6  # keys of each kind that an error names


def load_into(model, path, new_heads=False, key=None):
    """Load a file of weights into `model` (in place) and return the model.

    The file is what torch.save or safetensors writes: a state dict, bare or wrapped (formats.WRAPPERS), with timm's
    names or the original LeViT's. new_heads: classifiers of another number of classes stay as they are in the model.
    key: which of a file's state dicts is taken; by default the preferred.
    Raises UserError where it is not such a file, or where a tensor is missing, unexpected, mis-shaped or not finite,
    under its name in the file.
    """
    own, originals = model.state_dict(), formats.original_names(model)
    state, _ = formats.without_prefixes(read(path, key), own.keys() | originals.keys())
    names, shapes = formats.expected(state, model)
    _check_kinds(state, path)
    _check_alone(state, names, path)
    state = {name: _as_wide(value, shapes.get(name)) for name, value in state.items()}
    kept = other_heads(state, names, model) if new_heads else ()
    remedy = functools.partial(mismatch.of, state=state, names=names, model=model, heads=classifiers(model))
    _check(_without(state, kept), _without(shapes, kept), path, remedy)
    model.load_state_dict({target: (own[target] if name in kept else state[name]) for name, target in names.items()})
    return model


def load_state(model, state, path):
    """Load tensors under the model's own names, strictly, and return the model; `path` is what errors name."""
    _check(state, model.state_dict(), path)
    model.load_state_dict(state, strict=True)
    return model


def other_heads(state, names, model):
    """Return the names in a file of the tensors of classifiers that have another number of classes there.

    state: the file's tensors; names: {name in the file: name in the model}.
    """
    own, heads = model.state_dict(), classifiers(model)
    pairs = {name: (state[name].shape, own[target].shape) for name, target in names.items() if name in state}
    found = [name for name, target in names.items() if target.rpartition(".")[0] in heads and name in pairs]
    return [name for name in found if pairs[name][0] != pairs[name][1] and pairs[name][0][1:] == pairs[name][1][1:]]


def classifiers(model):
    """Return the names of the layers whose outputs are the classes, as timm's description of the network gives them."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def read(path, key=None):
    """Return the file's state dict {name: CPU tensor}, names as they are in the file; key: which, where it has several.

    Nothing but tensors and plain values is unpickled. Raises UserError for every other content.
    """
    content = _content(path)
    found = formats.parts(content, _is_state)
    if found or key:
        return dict(found[formats.choose(found, key, path)])
    if not _is_state(content):
        raise UserError(f"{path} holds no state dict: {_held(content)}; {unreadable.SAVE}")
    return dict(content)


def taken(path, key=None):
    """Return the key of the part of a file that `read` takes, or None where the file is one state dict."""
    found = formats.parts(_content(path), _is_state)
    return formats.choose(found, key, path) if found or key else None


def _content(path):
    if os.path.isdir(path):
        inside = sorted(name for name in os.listdir(path) if name.endswith(ENDINGS))
        raise UserError(
            f"{path} is a folder: name the file of weights in it ({', '.join(inside[:3]) or 'it has none'})"
        )
    with open(path, "rb") as stream:  # a missing or forbidden file is its own error, not damage
        head = stream.read(9)
    try:
        return (_read_safetensors if head[8:] == b"{" else _read_torch)(path)
    except DAMAGE as error:
        raise UserError(f"{path} {unreadable.what(path, error)}") from None


def _held(content):
    """Return what the content of a file is that is no state dict."""
    if not isinstance(content, dict):
        return f"it is one {type(content).__name__}"
    if not content:
        return "it is empty"
    odd = [f"{key!r} ({type(value).__name__})" for key, value in content.items() if not _is_entry(key, value)]
    return f"names of tensors are wanted, and it has {', '.join(odd[:3])}"


def _is_entry(key, value):
    import torch

    return isinstance(key, str) and isinstance(value, torch.Tensor)


def _is_state(content):
    entries = isinstance(content, dict) and all(_is_entry(key, value) for key, value in content.items())
    return entries and len(content) > 0


def _read_torch(path):
    import torch

    with torch.serialization.safe_globals([argparse.Namespace, *_numbers()]):  # what training programs keep beside
        return torch.load(path, map_location="cpu", weights_only=True)


def _numbers():
    """Return what pickled scalars and arrays of NumPy import, under the names of either of its generations."""
    import numpy as np

    core = np._core.multiarray  # type: ignore[attr-defined]
    named = [(core.scalar, f"numpy.{c}.multiarray.scalar") for c in ("core", "_core")]
    named += [(core._reconstruct, f"numpy.{c}.multiarray._reconstruct") for c in ("core", "_core")]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [*named, np.ndarray, np.dtype, *kinds]


def _read_safetensors(path):
    import safetensors
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from None


def save(state, path):
    """Write a state dict to `path`: equal tensors give equal bytes, whatever device or view they lived in."""
    import torch

    plain = collections.OrderedDict((name, value.detach().cpu().contiguous().clone()) for name, value in state.items())
    buffer = io.BytesIO()  # torch.save puts a file's name into the archive, and our names end in .partial
    torch.save(plain, buffer)
    Path(path).write_bytes(buffer.getvalue())


def _as_wide(value, expected):
    """Return a linear layer's weight [o, i] as the 1x1 convolution's [o, i, 1, 1] of `levit_conv_*`, or back."""
    narrow, wide = sorted([list(value.shape), list(expected.shape) if expected is not None else []], key=len)
    return value.view(expected.shape) if len(narrow) == 2 and wide == [*narrow, 1, 1] else value


def _without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def _check_kinds(state, path):
    """Raise UserError naming the first tensor that is not plain numbers in memory, with what makes it so."""
    import torch

    remedies = {
        "complex": lambda t: t.is_complex() and "it must be real",
        "meta": lambda t: t.is_meta and "it has no values: load the weights before they are saved",
        "quantized": lambda t: t.is_quantized and "save the network of before quantization",
        "nested": lambda t: t.is_nested and "save each tensor by itself",
        "sparse": lambda t: t.layout != torch.strided and "tensor.to_dense() before it is saved",
    }
    for name, value in state.items():
        for kind, remedy in remedies.items():
            if remedy(value):
                raise UserError(f"{path}: {name} is a {kind} tensor: {remedy(value)}")


def _check_alone(state, names, path):
    """Raise UserError where the weights are under a prefix and others stand beside them."""
    prefix, others = formats.beside(state, names.keys())
    if others:
        raise UserError(
            f"{path}: its weights are under {prefix} and {len(others)} others beside them ({_some(others)}): save "
            "the network's own state_dict() alone"
        )


def _check(state, expected, path, hint=lambda names: ""):
    """Raise one UserError that lists what does not fit; hint: what to do, by the names of the wrong shapes."""
    import torch

    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    wrong = [name for name, value in expected.items() if name in state and _kind(state[name]) != _kind(value)]
    shapes = [f"{name} {_kind(state[name])} instead of {_kind(expected[name])}" for name in wrong]
    broken = [n for n, v in state.items() if v.is_floating_point() and not v.to(torch.float32).isfinite().all()]
    moved = [
        name
        for name, value in expected.items()
        if name.endswith(formats.INDICES)
        and name in state
        and _kind(state[name]) == _kind(value)
        and not state[name].equal(value.cpu())
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape or type": shapes, "not finite": broken}
    kinds["with other indices"] = moved
    parts = [f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
    if parts:
        raise UserError(f"{path} does not fit this model and its number of classes: {'; '.join(parts)}{hint(wrong)}")


def _kind(value):
    return f"{list(value.shape)}{'' if value.is_floating_point() else ' of integers'}"


def _some(names):
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
