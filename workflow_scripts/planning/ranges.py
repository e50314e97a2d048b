"""Ranges of a graph's tensors on calibration images, and their fit into FP16."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from core.files import UserError
from planning.simulate import Node

HIGHEST = torch.finfo(torch.float16).max
SMALLEST_NORMAL = torch.finfo(torch.float16).smallest_normal  # below it FP16 loses bits
HEADROOM = 1.0  # bits that an activation must stay below HIGHEST on these images, as it may be larger on others


def of_tensor(value: torch.Tensor) -> tuple[float, int, int]:
    """Return (largest magnitude, count of non-zero values, count of those below FP16's smallest normal)."""
    magnitude = value.float().abs()
    nonzero, below = int(torch.count_nonzero(magnitude)), int(torch.count_nonzero(magnitude < SMALLEST_NORMAL))
    return float(magnitude.max()), nonzero, below - (magnitude.numel() - nonzero)


def of_chunk(activations: Iterable[tuple[str, torch.Tensor]]) -> dict[str, tuple]:
    """Return {tensor: of_tensor} of a chunk's activations; raise UserError naming the first that is not finite."""
    ranges = {name: of_tensor(value) for name, value in activations}
    for name, (largest, _, _) in ranges.items():
        if not math.isfinite(largest):
            raise UserError(f"activation {name} is not finite in FP32: check the checkpoint and the images")
    return ranges


def merged(chunks: Sequence[Mapping[str, tuple]], constants: Mapping[str, torch.Tensor]) -> dict[str, dict]:
    """Return {tensor: {max_abs, subnormal}} over chunks (of_chunk), and of the float constants that are not empty.

    subnormal: the share of the non-zero values that are below FP16's smallest normal number.
    """
    floats = {name: value for name, value in sorted(constants.items()) if value.is_floating_point() and value.numel()}
    ranges = {name: [of_tensor(value)] for name, value in floats.items()}
    ranges.update({name: [chunk[name] for chunk in chunks] for name in chunks[0]})
    described = {}
    for name, several in ranges.items():
        largest, nonzero, tiny = zip(*several)
        described[name] = {"max_abs": max(largest), "subnormal": round(sum(tiny) / max(sum(nonzero), 1), 6)}
    return described


def headroom(largest: float) -> float:
    """Return the bits between a magnitude and FP16's largest: below 0 it overflows."""
    return round(math.log2(HIGHEST / largest), 3) if largest > 0 else math.inf


def of_node(node: Node, tensors: Mapping[str, dict]) -> dict:
    """Return {max_abs, subnormal, headroom, overflows} of a node from the ranges of its inputs, weights and outputs.

    It overflows if a weight is beyond HIGHEST, or if an activation comes within HEADROOM bits of it.
    """
    constants = [n for n, constant in zip(node.inputs, node.constant) if constant and n in tensors]
    activations = [n for n, constant in zip(node.inputs, node.constant) if not constant] + node.outputs
    weight = max((tensors[name]["max_abs"] for name in constants), default=0.0)
    activation = max(tensors[name]["max_abs"] for name in activations)
    return {
        "max_abs": max(weight, activation),
        "subnormal": max(tensors[name]["subnormal"] for name in constants + activations),
        "headroom": min(headroom(max(weight, activation)), 1024.0),
        "overflows": weight > HIGHEST or headroom(activation) < HEADROOM,
    }
