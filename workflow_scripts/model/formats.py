"""How programs wrap and name weights: wrappers, prefixes, the original LeViT's names."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Set

from torch import nn

from core.command import log
from core.files import UserError

# Keys under which training programs save the weights, in order of preference: averaged weights, if saved, are the
# evaluated and published ones, so they precede the weights of the last step.
WRAPPERS = ("state_dict_ema", "model_ema", "model", "state_dict")
INSIDE = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")  # of torch.compile and others
COUNTER = "n_averaged"  # saved by torch's AveragedModel beside its weights
INDICES = "attention_bias_idxs"  # maps pairs of tokens to a LeViT's attention biases; the image size determines it


def parts(content: object, is_state: Callable[[object], bool]) -> dict[str, dict]:
    """Return {key: state dict} of a file's content in order of preference; a key of two levels has a dot."""
    states = {}
    for name, value in content.items() if isinstance(content, dict) else ():
        if is_state(value):
            states[str(name)] = value
        elif isinstance(value, dict):
            states.update({f"{name}.{inner}": state for inner, state in value.items() if is_state(state)})
    order = {name: place for place, name in enumerate(WRAPPERS)}
    return dict(sorted(states.items(), key=lambda item: order.get(item[0].partition(".")[0], len(order))))


def choose(states: dict[str, dict], key: str | None, path: str | os.PathLike) -> str:
    """Return `key`, or else the preferred key of `parts`; raise UserError if it is missing, or none is preferred."""
    if key:
        if key not in states:
            has = f"it has {', '.join(states)}" if states else "it is a bare state dict: remove the key"
            raise UserError(f"checkpoint_key: {key}: {path} has no such state dict: {has}")
        return key
    first, *others = states
    if others and first.partition(".")[0] not in WRAPPERS:
        raise UserError(f"{path} holds several state dicts ({', '.join(states)}): select one by `checkpoint_key`")
    if others:
        log.info("weights: using %s, not %s (`checkpoint_key` selects)", first, " or ".join(others))
    return first


def without_prefixes(state: dict, wanted: Set[str]) -> dict:
    """Return {name: tensor} without the common first parts of all names, up to where one of them is a wanted name."""
    stripped = {INSIDE.sub("", name): value for name, value in state.items()}
    stripped = stripped if len(stripped) == len(state) else dict(state)
    if any(name.startswith("module.") for name in stripped):
        stripped.pop(COUNTER, None)
    while stripped and not stripped.keys() & wanted:
        first = next(iter(stripped)).partition(".")[0] + "."
        if not all(name.startswith(first) for name in stripped):
            return dict(state)
        stripped = {name[len(first) :]: value for name, value in stripped.items()}
    return stripped


def beside(state: dict, wanted: Set[str]) -> tuple[str, list[str]]:
    """Return (prefix of most wanted names, names without it), or ("", [])."""
    splits = ((name, name.split(".", depth)[-1]) for name in state for depth in range(1, min(name.count(".") + 1, 4)))
    tally = collections.Counter(name[: -len(inner)] for name, inner in splits if inner in wanted)
    prefix, count = tally.most_common(1)[0] if tally else ("", 0)
    return (prefix, [name for name in state if not name.startswith(prefix)]) if 2 * count > len(wanted) else ("", [])


def expected(state: dict, model: nn.Module) -> tuple[dict[str, str], dict]:
    """Return ({name in the file: name in the model}, {name in the file: tensor of the expected shape and type}).

    The names are the original LeViT's if the file has them, else the model's own. Indices of attention biases are
    expected if the file has any: the original saves these buffers, which the model's state dict does not contain.
    """
    tensors = model.state_dict()
    originals = original_names(model)
    original = bool(originals) and any(name.startswith("patch_embed.") for name in state)
    names = originals if original else {name: name for name in tensors}
    shapes = {name: tensors[target] for name, target in names.items()}
    if any(name.endswith(INDICES) for name in state):
        buffers = {name: value for name, value in model.named_buffers() if name.endswith(INDICES)}
        shapes.update({_original(n, model): v for n, v in buffers.items()} if original else buffers)
    return names, shapes


def original_names(model: nn.Module) -> dict[str, str]:
    """Return {name in the original LeViT's state dict: name in timm's}; {} for a network other than a timm LeViT.

    The original is one flat sequence of blocks; timm groups them by stage, each with its downsampling pair first.
    """
    from model.timm_modules import levit

    return {_original(name, model): name for name in model.state_dict()} if isinstance(model, levit.Levit) else {}


def _original(name, model):
    """Return the original's name of a tensor of a timm LeViT."""
    inner = {prefix: original for original, prefix in _prefixes(model)}
    prefix = max((p for p in inner if name.startswith(p + ".")), key=len)
    return inner[prefix] + name[len(prefix) :].replace(".linear.", ".l." if prefix.startswith("head") else ".c.")


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
