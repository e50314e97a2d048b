"""Checkpoint files: read strictly, as tensors only, with timm's or the original LeViT's names; written reproducibly."""

from __future__ import annotations

import argparse
import collections
import functools
import io
import os
import pickle
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from core.files import UserError
from model import formats, mismatch, unreadable

DAMAGE: tuple = (pickle.UnpicklingError, safetensors.SafetensorError, OSError, RuntimeError, EOFError)
DAMAGE += (LookupError, ValueError, TypeError, AttributeError)
ENDINGS = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar")  # of the files that the error for a folder suggests
LISTED = 6  # names of each kind in an error


def load_into(model: nn.Module, path: str | os.PathLike, new_heads: bool = False, key: str | None = None) -> nn.Module:
    """Load a checkpoint into `model` (in place) and return the model.

    The file is one of torch.save or safetensors: a state dict, bare or wrapped (formats.WRAPPERS), with timm's names or
    the original LeViT's. new_heads: keep the model's classifiers if the file's have another number of classes;
    key: the state dict to use, if the file has several. Raises UserError if the file is of another kind, or if a tensor
    is missing, unexpected, mis-shaped or not finite, by its name in the file.
    """
    tensors, originals = model.state_dict(), formats.original_names(model)
    state = formats.without_prefixes(read(path, key), tensors.keys() | originals.keys())
    names, shapes = formats.expected(state, model)
    _check_kinds(state, path)
    _check_alone(state, names, path)
    state = {name: _as_wide(value, shapes.get(name)) for name, value in state.items()}
    new = _other_heads(state, names, model) if new_heads else []
    remedy = functools.partial(mismatch.hint, state=state, names=names, model=model, heads=classifiers(model))
    _check(_without(state, new), _without(shapes, new), path, remedy)
    model.load_state_dict({target: (tensors[target] if name in new else state[name]) for name, target in names.items()})
    return model


def load_state(model: nn.Module, state: dict, path: str | os.PathLike) -> nn.Module:
    """Load tensors with the model's own names, strictly, and return the model; errors name `path`."""
    _check(state, model.state_dict(), path)
    model.load_state_dict(state, strict=True)
    return model


def _other_heads(state, names, model):
    """Return the names of a file's classifier tensors whose number of classes differs from the model's."""
    tensors, heads = model.state_dict(), classifiers(model)
    pairs = {name: (state[name].shape, tensors[target].shape) for name, target in names.items() if name in state}
    tensors = [name for name, target in names.items() if target.rpartition(".")[0] in heads and name in pairs]
    return [name for name in tensors if pairs[name][0] != pairs[name][1] and pairs[name][0][1:] == pairs[name][1][1:]]


def classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier layers, from timm's pretrained_cfg."""
    names = model.pretrained_cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def read(path: str | os.PathLike, key: str | None = None) -> dict:
    """Return the file's state dict {name: CPU tensor} with the file's names; key: the one to use, if it has several.

    Only tensors and plain values are unpickled. Raises UserError for any other content.
    """
    content = _content(path)
    parts = formats.parts(content, _is_state)
    if parts or key:
        return dict(parts[formats.choose(parts, key, path)])
    if not _is_state(content):
        raise UserError(f"{path} holds no state dict: {_describe(content)}; {unreadable.SAVE}")
    return dict(content)


def part_of(path: str | os.PathLike, key: str | None = None) -> str | None:
    """Return the key of the state dict that `read` uses, or None if the file is a bare one."""
    parts = formats.parts(_content(path), _is_state)
    return formats.choose(parts, key, path) if parts or key else None


def _content(path):
    if os.path.isdir(path):
        inside = sorted(name for name in os.listdir(path) if name.endswith(ENDINGS))
        raise UserError(f"{path} is a folder: name the checkpoint in it ({', '.join(inside[:3]) or 'it has none'})")
    with open(path, "rb") as stream:  # a missing or unreadable file is an OSError, not damage
        head = stream.read(9)
    try:
        return (safetensors.torch.load_file if head[8:] == b"{" else _read_torch)(path)
    except DAMAGE as error:
        raise UserError(f"{path} {unreadable.diagnose(path, error)}") from None


def _describe(content):
    """Return what content is that is not a state dict."""
    if not isinstance(content, dict):
        return f"it is one {type(content).__name__}"
    if not content:
        return "it is empty"
    odd = [f"{key!r} ({type(value).__name__})" for key, value in content.items() if not _is_entry(key, value)]
    return f"it must map names to tensors, but it has {', '.join(odd[:3])}"


def _is_entry(key, value):
    return isinstance(key, str) and isinstance(value, torch.Tensor)


def _is_state(content):
    entries = isinstance(content, dict) and all(_is_entry(key, value) for key, value in content.items())
    return entries and len(content) > 0


def _read_torch(path):
    beside = [argparse.Namespace, *_numbers()]  # what training programs save with the weights
    with torch.serialization.safe_globals(beside):
        return torch.load(path, map_location="cpu", weights_only=True)


def _numbers():
    """Return what pickled NumPy scalars and arrays import, under the names of NumPy 1 and 2."""
    core = np._core.multiarray  # type: ignore[attr-defined]
    named = [(core.scalar, f"numpy.{c}.multiarray.scalar") for c in ("core", "_core")]
    named += [(core._reconstruct, f"numpy.{c}.multiarray._reconstruct") for c in ("core", "_core")]
    types = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [*named, np.ndarray, np.dtype, *types]


def save(state: dict, path: str | os.PathLike) -> None:
    """Write a state dict to `path`; equal tensors give equal bytes, on whatever device or in whatever view they are."""
    plain = collections.OrderedDict((name, value.detach().cpu().contiguous().clone()) for name, value in state.items())
    buffer = io.BytesIO()  # torch.save stores the file's name in the archive, and ours ends in .partial
    torch.save(plain, buffer)
    Path(path).write_bytes(buffer.getvalue())


def _as_wide(value, expected):
    """Return a linear layer's weight [o, i] as the 1x1 convolution's [o, i, 1, 1] of `levit_conv_*`, or back."""
    narrow, wide = sorted([list(value.shape), list(expected.shape) if expected is not None else []], key=len)
    return value.view(expected.shape) if len(narrow) == 2 and wide == [*narrow, 1, 1] else value


def _without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def _check_kinds(state, path):
    """Raise UserError naming the first tensor that is not real, dense numbers in memory, with the remedy."""
    remedies = {
        "complex": lambda t: t.is_complex() and "it must be real",
        "meta": lambda t: t.is_meta and "it has no values: load the weights before saving",
        "quantized": lambda t: t.is_quantized and "save the network before quantization",
        "nested": lambda t: t.is_nested and "save each tensor separately",
        "sparse": lambda t: t.layout != torch.strided and "tensor.to_dense() before saving",
    }
    for name, value in state.items():
        for kind, remedy in remedies.items():
            if remedy(value):
                raise UserError(f"{path}: {name} is a {kind} tensor: {remedy(value)}")


def _check_alone(state, names, path):
    """Raise UserError if the weights have a common prefix and other tensors stand beside them."""
    prefix, others = formats.beside(state, names.keys())
    if others:
        beside = f"{len(others)} others beside them ({_some(others)})"
        raise UserError(f"{path}: its weights are under {prefix}, with {beside}: save the network's own state_dict()")


def _check(state, expected, path, hint=lambda names: ""):
    """Raise one UserError that lists all differences; hint: returns the remedy for the names of wrong shapes."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    wrong = [name for name, value in expected.items() if name in state and _kind(state[name]) != _kind(value)]
    shapes = [f"{name} {_kind(state[name])} instead of {_kind(expected[name])}" for name in wrong]
    broken = [n for n, v in state.items() if v.is_floating_point() and not v.to(torch.float32).isfinite().all()]
    indices = [name for name in expected if name.endswith(formats.INDICES) and name in state and name not in wrong]
    moved = [name for name in indices if not state[name].equal(expected[name].cpu())]
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
