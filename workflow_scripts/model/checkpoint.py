"""Weights as files: read strictly and as tensors only, under either of the known names, written reproducibly."""

import argparse
import collections
import io
import pickle
from pathlib import Path

from files import UserError
from model import formats

DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
LISTED = 6  # keys of each kind that an error names


def load_into(model, path, new_heads=False):
    """Load a file of weights into `model` (in place) and return the model.

    The file is what torch.save or safetensors writes: a state dict, bare or wrapped (formats.WRAPPERS), with timm's
    names or the original LeViT's. new_heads: classifiers of another number of classes stay as they are in the model.
    Raises UserError where it is not such a file, or where a tensor is missing, unexpected, mis-shaped or not finite,
    under its name in the file.
    """
    state = formats.without_prefixes(read(path))
    names, shapes = formats.expected(state, model)
    state = {name: _as_wide(value, shapes.get(name)) for name, value in state.items()}
    kept = other_heads(state, names, model) if new_heads else ()
    _check(_without(state, kept), _without(shapes, kept), path)
    own = model.state_dict()
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


def read(path):
    """Return the file's state dict {name: CPU tensor}, names as they are in the file.

    Nothing but tensors and plain values is unpickled. Raises UserError for every other content.
    """
    with open(path, "rb") as stream:  # a missing or forbidden file is its own error, not damage
        head = stream.read(9)
    try:
        content = (_read_safetensors if head[8:] == b"{" else _read_torch)(path)
    except DAMAGE as error:
        raise UserError(_unreadable(path, error)) from None
    content = formats.unwrapped(content, _is_state)
    if not _is_state(content):
        known = ", ".join(formats.WRAPPERS)
        raise UserError(f"{path} holds no state dict (names to tensors, bare or under one of {known})")
    return dict(content)


def _is_state(content):
    import torch

    tensors = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    return tensors and len(content) > 0


def _read_torch(path):
    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):  # training programs keep their arguments beside
        return torch.load(path, map_location="cpu", weights_only=True)


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


def _check(state, expected, path):
    """Raise one UserError that lists what does not fit."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {_kind(state[name])} instead of {_kind(value)}"
        for name, value in expected.items()
        if name in state and _kind(state[name]) != _kind(value)
    ]
    broken = [n for n, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
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
        raise UserError(f"{path} does not fit this model and its number of classes: {'; '.join(parts)}")


def _kind(value):
    return f"{list(value.shape)}{'' if value.is_floating_point() else ' of integers'}"


def _some(names):
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _unreadable(path, error):
    text = " ".join(str(error).split())
    if "Unsupported global" in text or "Unsupported class" in text:
        return (
            f"{path} is a pickle with more than weights in it, which could run code when opened: refused. "
            "Where it was made, save the weights alone: torch.save(model.state_dict(), path)"
        )
    return (
        f"{path} is not a file of weights, or is a damaged one ({type(error).__name__}): "
        "torch.save(model.state_dict(), path) makes one"
    )
