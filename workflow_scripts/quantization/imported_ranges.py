"""Ranges from a checkpoint that another program quantized: pytorch-quantization 2.2.1, or modelopt's state dict."""

from core.files import UserError
from model import checkpoint, formats
from quantization import amax

INNER = (".linear", ".c", ".l")  # the layer inside a module that has BatchNorm beside it: timm's name, the original's


def ranges(path, network, source):
    """Return {quantizer: amax} of a checkpoint's activations, under the folded network's names.

    network: the folded network with quantizers; source: the unfolded one, whose names the file may have as well (timm's
    or the original LeViT's). Not taken are ranges of weights, which folding changes and which are found anew, and that
    of an unfolded head, whose quantizer comes after the BatchNorm that is folded. Raises UserError where the file has
    no range of any activation of this network, or one that is not positive and finite.
    """
    found = amax.split_state(checkpoint.read(path))[1]
    originals = {o.rpartition(".")[0]: n.rpartition(".")[0] for o, n in formats.original_names(source).items()}
    wanted, taken = set(amax.activations(network)), {}
    for name, value in found.items():
        module, _, quantizer = name.removeprefix("module.").rpartition(".")
        module = originals.get(module, module)
        ours = f"{module if module.startswith('head') else _folded(module)}.{quantizer}"
        if ours in wanted:
            taken[ours] = value
    bad = [name for name, value in taken.items() if not 0 < value < float("inf")]
    if bad:
        raise UserError(f"{path}: the range of {bad[0]} is {taken[bad[0]]}: it must be positive and finite")
    if not taken:
        near = sorted(found)[0] if found else "no *_quantizer._amax at all"
        raise UserError(f"{path} has no ranges of this network's activations (it has {near})")
    return taken


def _folded(module):
    return next((module[: -len(inner)] for inner in INNER if module.endswith(inner)), module)
