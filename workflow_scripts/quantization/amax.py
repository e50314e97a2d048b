"""Ranges by quantizer name, {name: amax, or list of amax per output channel}: on a network and in state dicts."""

import contextlib
import re
from collections.abc import Callable, Iterator

import torch

from core.files import UserError
from model.hooks import hooked

WEIGHT = "weight_quantizer"
KEY = re.compile(r"(.*)\.(_?)(\w+_quantizer)\._amax")  # pytorch-quantization writes an underscore before its quantizers


def quantizers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return {name: quantizer} of the enabled quantizers, of whichever backend."""
    modules = ((name, m) for name, m in model.named_modules() if name.endswith("_quantizer"))
    return {name: quantizer for name, quantizer in modules if not quantizer._disabled}


def activations(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return {name: quantizer} of the quantizers of activations."""
    return {name: quantizer for name, quantizer in quantizers(model).items() if not name.endswith(WEIGHT)}


def module_of(name: str) -> str:
    """Return the path of the module that a quantizer belongs to."""
    return name.rpartition(".")[0]


@contextlib.contextmanager
def unquantized(model: torch.nn.Module, chosen: Callable = lambda name: True) -> Iterator[torch.nn.Module]:
    """Make a quantized network compute without the quantizers whose names are chosen, within the context."""
    enabled = [quantizer for name, quantizer in quantizers(model).items() if chosen(name)]
    for quantizer in enabled:
        quantizer.disable_quant()
    try:
        yield model
    finally:
        for quantizer in enabled:
            quantizer.enable_quant()


@contextlib.contextmanager
def observed(model: torch.nn.Module, observe: Callable[[str, torch.Tensor], None]) -> Iterator[torch.nn.Module]:
    """As `unquantized`, and call observe(quantizer name, its input) for every activation that is computed."""
    watched = hooked(activations(model), lambda name, inputs, _: observe(name, inputs[0]))
    with unquantized(model), watched:
        yield model


def load(model: torch.nn.Module, ranges: dict) -> None:
    """Set the range of every quantizer, in place; raise UserError unless ranges and quantizers have the same names."""
    placed = quantizers(model)
    if placed.keys() != ranges.keys():
        differ = sorted(placed.keys() ^ ranges.keys())
        raise UserError(f"calibration is of another network: {len(differ)} quantizers differ ({', '.join(differ[:4])})")
    for name, quantizer in placed.items():
        values = torch.tensor(ranges[name], dtype=torch.float32)
        if values.ndim:
            weight = model.get_submodule(module_of(name)).weight
            values = values.reshape(-1, *[1] * (weight.ndim - 1))
        quantizer.amax = values
    model.to(next(model.parameters()).device)


def split_state(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict]:
    """Return (weights, {quantizer: amax}) of a quantized network's state dict, that of either backend (KEY)."""
    matches = {name: KEY.fullmatch(name) for name in tensors}
    ranges = {f"{m[1]}.{m[3]}": tensors[name].flatten() for name, m in matches.items() if m}
    weights = {name: value for name, value in tensors.items() if "_quantizer._" not in name}
    return weights, {n: v.tolist() if n.endswith(WEIGHT) else v.max().item() for n, v in ranges.items()}
