"""Ranges by quantizer name, {name: amax, or list of amax per output channel}: on a network and in state dicts."""

import contextlib
import re

import torch

from core.files import UserError

WEIGHT = "weight_quantizer"
KEY = re.compile(r"(.*)\.(_?)(\w+_quantizer)\._amax")  # pytorch-quantization writes an underscore before its quantizers


def named(model):
    """Return {name: quantizer} of all enabled quantizers, of whichever backend."""
    found = ((name, m) for name, m in model.named_modules() if name.endswith("_quantizer"))
    return {name: quantizer for name, quantizer in found if not quantizer._disabled}


def activations(model):
    """Return {name: quantizer} of the quantizers of activations."""
    return {name: quantizer for name, quantizer in named(model).items() if not name.endswith(WEIGHT)}


def module_of(name):
    """Return the path of the module that a quantizer belongs to."""
    return name.rpartition(".")[0]


@contextlib.contextmanager
def unquantized(model):
    """Let a quantized network compute in float32 for a while."""
    quantizers = named(model).values()
    for quantizer in quantizers:
        quantizer.disable_quant()
    try:
        yield model
    finally:
        for quantizer in quantizers:
            quantizer.enable_quant()


def load(model, ranges):
    """Give every quantizer its range, in place; raise UserError where quantizers and ranges have different names."""
    quantizers = named(model)
    if quantizers.keys() != ranges.keys():
        differ = sorted(quantizers.keys() ^ ranges.keys())
        raise UserError(f"calibration is of another network: {len(differ)} quantizers differ ({', '.join(differ[:4])})")
    for name, quantizer in quantizers.items():
        values = torch.tensor(ranges[name], dtype=torch.float32)
        weight = model.get_submodule(module_of(name)).weight if values.ndim else None
        quantizer.amax = values.reshape(-1, *[1] * (weight.ndim - 1)) if values.ndim else values
    model.to(next(model.parameters()).device)


def state(model):
    """Return a quantized network's state dict: the folded weights, and `{quantizer}._amax` for each range."""
    return dict(model.state_dict())


def split_state(tensors):
    """Return (weights, {quantizer: amax}) of a quantized network's tensors.

    Reads the keys that modelopt and pytorch-quantization 2.2.1 write: `{module}.{x}_quantizer._amax`, the latter with
    an underscore before x.
    """
    matches = {name: KEY.fullmatch(name) for name in tensors}
    ranges = {f"{m[1]}.{m[3]}": tensors[name].flatten() for name, m in matches.items() if m}
    weights = {name: value for name, value in tensors.items() if "_quantizer._" not in name}
    return weights, {n: v.tolist() if n.endswith(WEIGHT) else v.max().item() for n, v in ranges.items()}
