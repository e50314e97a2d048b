"""Ranges of a graph's tensors on calibration images, and what FP16 makes of them."""

import math

from core.files import UserError

HIGHEST = 65504.0  # largest FP16 number
SMALLEST_NORMAL = 2.0**-14  # below it FP16 loses bits
HEADROOM = 1.0  # bits that an activation must stay below HIGHEST on the images looked at: others may reach further


def of_tensor(value):
    """Return (largest magnitude, non-zero values, how many of them are below FP16's smallest normal)."""
    magnitude = value.float().abs()
    nonzero, tiny = magnitude > 0, magnitude < SMALLEST_NORMAL
    return float(magnitude.max()), int(nonzero.sum()), int((nonzero & tiny).sum())


def of_chunk(values):
    """Return {tensor: of_tensor} of a chunk's activations; raise UserError naming the first that is not finite."""
    found = {name: of_tensor(value) for name, value in values.items()}
    for name, (largest, _, _) in found.items():
        if not math.isfinite(largest):
            raise UserError(f"activation {name} is not finite in FP32: check the checkpoint and the images")
    return found


def merged(chunks, constants):
    """Return {tensor: {max_abs, subnormal}} over chunks (of_chunk) and of the constants that are float.

    subnormal: the share of the non-zero values that are below FP16's smallest normal number.
    """
    together = of_constants(constants)
    for name in chunks[0]:
        largest, nonzero, tiny = (list(column) for column in zip(*(chunk[name] for chunk in chunks)))
        together[name] = _described(max(largest), sum(nonzero), sum(tiny))
    return together


def of_constants(constants):
    """Return {constant: {max_abs, subnormal}} of the float constants that are not empty."""
    floats = {name: value for name, value in constants.items() if value.is_floating_point() and value.numel()}
    return {name: _described(*of_tensor(value)) for name, value in sorted(floats.items())}


def _described(largest, nonzero, tiny):
    return {"max_abs": largest, "subnormal": round(tiny / nonzero, 6) if nonzero else 0.0}


def headroom(largest):
    """Return the bits between a magnitude and FP16's largest: below 0 it overflows."""
    return round(math.log2(HIGHEST / largest), 3) if largest > 0 else math.inf


def of_nodes(network, tensors):
    """Return {node: {max_abs, subnormal, headroom, overflows}} from the ranges of its inputs, weights and outputs.

    A node overflows where a weight is beyond HIGHEST, or an activation comes within HEADROOM bits of it.
    """
    return {node.name: _of_node(node, tensors) for node in network.nodes}


def _of_node(node, tensors):
    constants = [n for n, constant in zip(node.inputs, node.constant) if constant and n in tensors]
    activations = [n for n, constant in zip(node.inputs, node.constant) if not constant] + node.outputs
    weight = max((tensors[name]["max_abs"] for name in constants), default=0.0)
    moving = max(tensors[name]["max_abs"] for name in activations)
    return {
        "max_abs": max(weight, moving),
        "subnormal": max(tensors[name]["subnormal"] for name in constants + activations),
        "headroom": min(headroom(max(weight, moving)), 1024.0),
        "overflows": weight > HIGHEST or headroom(moving) < HEADROOM,
    }
