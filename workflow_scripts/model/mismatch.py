"""What to correct if a checkpoint's tensors have other shapes than the model's: the image size, or the classes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from torch import nn

FROM_SIZE = re.compile(r"attention_bias|pos_embed|position_embed|relative_position|rel_pos|attn_mask|pos_bias")
STEP = 8  # image sizes are multiples of it, in pixels


def hint(wrong: Sequence[str], state: dict, names: dict[str, str], model: nn.Module, heads: Sequence[str]) -> str:
    """Return the remedy for a file's tensors of another shape, or "".

    wrong: their names; state: the file's tensors; names: {name in the file: name in the model};
    heads: the model's classifiers.
    """
    tensors = model.state_dict()
    heads_of = [name for name in wrong if names.get(name, "").rpartition(".")[0] in heads]
    ends = [name for name in heads_of if state[name].shape[:1] != tensors[names[name]].shape[:1]]
    sized = [name for name in wrong if FROM_SIZE.search(name)]
    others = set(wrong) - set(heads_of) - set(sized)
    remedies = []
    if ends:
        remedies.append(f"correct `classes`: the file has {state[ends[0]].shape[0]}")
    if sized and not others:
        guess = _size(state[sized[0]].shape, tensors[names[sized[0]]].shape, model.size) if sized[0] in names else None
        likely = f", {guess} px fits" if guess else ""
        remedies.append(f"correct `size`: {model.size} px is not what the weights were trained at{likely}")
    if others or (wrong and not remedies):
        remedies.append("these are weights of another network, or of other `options`")
    return f": {'; '.join(remedies)}" if remedies else ""


def _size(shape, expected, size):
    """Return the image size that gives a tensor this shape if `size` gives `expected`, or None.

    The dimension that differs counts the cells of a square grid, proportional to the size, plus up to two tokens.
    """
    differing = [(a, b) for a, b in zip(shape, expected) if a != b]
    for count, ours in differing[:1]:
        for tokens in range(3):
            sides = math.isqrt(max(count - tokens, 0)), math.isqrt(max(ours - tokens, 0))
            if sides[0] ** 2 == count - tokens and sides[1] ** 2 == ours - tokens and sides[1]:
                guess = round(size * sides[0] / sides[1] / STEP) * STEP
                return guess if abs(guess * sides[1] - size * sides[0]) < STEP * sides[1] / 2 else None
    return None
