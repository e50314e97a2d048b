"""Weights as files: read strictly and as tensors only, under either of the known names, written reproducibly."""

import collections
import io
import pickle
from pathlib import Path

from files import UserError

WRAPPERS = ("model", "state_dict")  # keys under which training programs keep the weights
DAMAGE = (pickle.UnpicklingError, OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
LISTED = 6  # keys of each kind that an error names


def load_into(model, path):
    """Load a file of weights into `model` (in place) and return the model.

    The file holds a state dict, bare or under `model` or `state_dict`, with timm's names or the original LeViT's.
    Raises UserError where it is not such a file, or where a tensor is missing, unexpected, mis-shaped or not finite.
    """
    return load_state(model, adapt(read(path), model), path)


def load_state(model, state, path):
    """Load tensors under the model's own names, strictly, and return the model; `path` is what errors name."""
    _check(state, model.state_dict(), path)
    model.load_state_dict(state, strict=True)
    return model


def read(path):
    """Return the file's state dict {name: CPU tensor}, names as they are in the file.

    Nothing but tensors is unpickled. Raises UserError for every other content.
    """
    import torch

    with open(path, "rb"):  # a missing or forbidden file is its own error, not damage
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise UserError(_unreadable(path, error)) from None
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    tensors = isinstance(content, dict) and all(isinstance(value, torch.Tensor) for value in content.values())
    if not tensors or not content:
        raise UserError(f"{path} holds no state dict (names to tensors, bare or under 'model' or 'state_dict')")
    return dict(content)


def save(state, path):
    """Write a state dict to `path`: equal tensors give equal bytes, whatever device or view they lived in."""
    import torch

    plain = collections.OrderedDict((name, value.detach().cpu().contiguous().clone()) for name, value in state.items())
    buffer = io.BytesIO()  # torch.save puts a file's name into the archive, and our names end in .partial
    torch.save(plain, buffer)
    Path(path).write_bytes(buffer.getvalue())


def adapt(state, model):
    """Return `state` under the model's names: data-parallel prefixes dropped, original LeViT names converted."""
    if all(name.startswith("module.") for name in state):
        state = {name[len("module.") :]: value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.endswith("attention_bias_idxs")}
    if any(name.startswith("patch_embed.") for name in state) and hasattr(model, "stages"):
        names = original_names(model)
        return {names.get(name, name): value for name, value in state.items()}
    return state


def original_names(model):
    """Return {name in the original LeViT's state dict: name in timm's} for a timm LeViT.

    The original is one flat sequence of blocks; timm groups it by stage, a downsampling pair first in each.
    """
    prefixes = dict(_prefixes(model))
    inner = {name: original for original, name in prefixes.items()}
    names = {}
    for name in model.state_dict():
        prefix = max((p for p in inner if name.startswith(p + ".")), key=len, default=None)
        if prefix is not None:
            rest = name[len(prefix) :].replace(".linear.", ".l." if prefix.startswith("head") else ".c.")
            names[inner[prefix] + rest] = name
    return names


def _prefixes(model):
    """Yield (original prefix, timm prefix) of every part that holds tensors."""
    for index in range(sum(name.startswith("conv") for name, _ in model.stem.named_children())):
        yield f"patch_embed.{2 * index}", f"stem.conv{index + 1}"
    position = 0
    for number, stage in enumerate(model.stages):
        if any(True for _ in stage.downsample.parameters()):
            yield from _attention(f"blocks.{position}", f"stages.{number}.downsample.attn_downsample")
            yield from _mlp(f"blocks.{position + 1}.m", f"stages.{number}.downsample.mlp")
            position += 2
        for block in range(len(stage.blocks)):
            yield from _attention(f"blocks.{position}.m", f"stages.{number}.blocks.{block}.attn")
            yield from _mlp(f"blocks.{position + 1}.m", f"stages.{number}.blocks.{block}.mlp")
            position += 2
    yield "head", "head"
    yield "head_dist", "head_dist"


def _attention(original, name):
    yield original, name
    yield f"{original}.q.1", f"{name}.q.ln"
    yield f"{original}.proj.1", f"{name}.proj.ln"


def _mlp(original, name):
    yield f"{original}.0", f"{name}.ln1"
    yield f"{original}.2", f"{name}.ln2"


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
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape or type": shapes, "not finite": broken}
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
