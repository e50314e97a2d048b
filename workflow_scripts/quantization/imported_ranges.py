"""Ranges from a checkpoint that another program quantized: pytorch-quantization 2.2.1, or modelopt's state dict."""

import os
import re

import torch

from core.files import UserError
from model import checkpoint, formats
from quantization import amax

# the layer in a module that also has BatchNorm: timm's name, then the original's
INNER = re.compile(r"\.(linear|c|l)$")


def ranges(path: str | os.PathLike, network: torch.nn.Module, source: torch.nn.Module) -> dict[str, float]:
    """Return {quantizer: amax} of a checkpoint's activations, under the folded network's names.

    network: the folded network with quantizers; source: the unfolded network, whose names (timm's or the original
    LeViT's) the file may use as well. Ranges of weights are ignored, because folding changes weights; they are
    calibrated anew. So is the range of an unfolded head, whose quantizer comes after the BatchNorm that is folded.
    Raises UserError if the file has no range of any activation of this network, or one that is not positive and finite.
    """
    in_file = amax.split_state(checkpoint.read(path))[1]
    originals = {o.rpartition(".")[0]: n.rpartition(".")[0] for o, n in formats.original_names(source).items()}
    names, matched = set(amax.activations(network)), {}
    for name, value in in_file.items():
        module, _, quantizer = name.removeprefix("module.").rpartition(".")
        module = originals.get(module, module)
        folded = f"{module if module.startswith('head') else INNER.sub('', module)}.{quantizer}"
        if folded in names:
            matched[folded] = value
    bad = [name for name, value in matched.items() if not 0 < value < float("inf")]
    if bad:
        raise UserError(f"{path}: the range of {bad[0]} is {matched[bad[0]]}: it must be positive and finite")
    if not matched:
        example = min(in_file, default="no *_quantizer._amax at all")
        raise UserError(f"{path} has no ranges of this network's activations (it has {example})")
    return matched
