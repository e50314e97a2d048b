"""Decide which nodes of a graph a DLA runs, by the published rules in rules.yaml, and give the reason for the others.

A check is a function (node, parameter) -> reason or None. A node is an onnx-graphsurgeon node whose tensors have the
shapes and types of one batch size.
"""

import os
import re

import numpy as np
import onnx_graphsurgeon as gs
import yaml

from core.files import UserError
from dla import partition


def load(path: str | os.PathLike) -> dict:
    """Return the rules in a YAML file."""
    with open(path, encoding="utf-8") as stream:
        return yaml.safe_load(stream)


def numbers(version: object) -> tuple[int, ...]:
    """Return the numbers of a version: `10.3` gives (10, 3)."""
    return tuple(int(part) for part in re.findall(r"\d+", str(version)))


def release_problem(rules: dict, generation: int, version: str) -> str | None:
    """Return why a TensorRT does not build for a DLA generation, or None; raise UserError for an unknown one."""
    if generation not in rules["generations"]:
        known = ", ".join(map(str, rules["generations"]))
        raise UserError(f"DLA generation {generation} has no rules: use one of {known}")
    spans = rules["releases"][generation]
    if any(numbers(span["from"]) <= numbers(version) < numbers(span.get("before", "999")) for span in spans):
        return None
    return f"TensorRT {version} does not build for the DLA of {rules['generations'][generation]['chips']}"


def problem(rules: dict, node: gs.Node, generation: int, version: str) -> str | None:
    """Return why a node runs on the GPU, or None if this DLA runs it; raise UserError for an unknown generation."""
    entry, old = rules["layers"].get(node.op), release_problem(rules, generation, version)
    if old or entry is None:
        return old or f"a DLA has no layer for {node.op}"
    if generation not in entry.get("generations", rules["generations"]):
        return f"{entry['layer']} is for newer DLAs"
    if numbers(version) < numbers(entry.get("since", "0")):
        return f"{entry['layer']} needs TensorRT {entry['since']}"
    checked = (CHECKS[name](node, parameter) for name, parameter in entry.get("checks", {}).items())
    return _number_problem(node) or _size_problem(rules["limits"], node) or next(filter(None, checked), None)


def activations(node: gs.Node) -> list[gs.Tensor]:
    """Return the inputs of a node that are not constants."""
    return [tensor for tensor in node.inputs if not isinstance(tensor, gs.Constant) and not tensor.is_empty()]


def _number_problem(node):
    other = [t for t in [*activations(node), *node.outputs] if np.dtype(t.dtype).kind != "f"]
    return f"{np.dtype(other[0].dtype).name} numbers: only FP16 and INT8 run there" if other else None


def _size_problem(limits, node):
    for tensor in [*activations(node), *node.outputs]:
        batch = partition.batch_of(tensor.shape)
        if batch > limits["batch"]:
            return f"a batch of {batch} is more than {limits['batch']}"
        if max(tensor.shape[-3:], default=1) > limits["dimension"]:
            return f"a dimension of {max(tensor.shape[-3:])} is more than {limits['dimension']}"
    return None


def _rank(node, wanted):
    other = next((len(t.shape) for t in [*activations(node), *node.outputs] if len(t.shape) != wanted), None)
    return f"{other} dimensions, and {wanted} are needed" if other is not None else None


def _within(values, limits, what):
    odd = [value for value in values if not limits[0] <= value <= limits[1]]
    return f"{what} of {odd[0]} is not within {limits[0]} to {limits[1]}" if odd else None


def _attribute(name, label):
    return lambda node, limits: _within(node.attrs.get(name, ()), limits, label)


def _unless(condition, reason):
    return lambda node, wanted: None if condition(node) else reason


def _clipped_relu(node, limits):
    bounds = [t.values.item() if isinstance(t, gs.Constant) else None for t in node.inputs[1:3]]
    if bounds[:1] != [0] or None in bounds or len(bounds) < 2:
        return f"a clip from {bounds[:1]} to {bounds[1:]}: only from 0 to a constant"
    return _within(bounds[1:], limits, "an upper end")


def _axis(node, wanted):
    axis = node.attrs.get("axis", 0) % len(node.outputs[0].shape)
    return f"along axis {axis}, and only {wanted} is possible" if axis != wanted else None


def _softmax_axis(node, most):
    shape = list(node.outputs[0].shape)
    axis = node.attrs.get("axis", -1) % len(shape)
    if axis < len(shape) - 3:
        return f"along axis {axis} of the batch"
    return f"{shape[axis]} numbers along its axis, at most {most}" if shape[axis] > most else None


def _unit_steps(node, wanted):
    steps = node.inputs[4].values.tolist() if len(node.inputs) > 4 else [1]
    return None if set(steps) == {1} else f"steps of {steps}, and only 1 is possible"


def _batch_stays(node, wanted):
    moved = node.op == "Transpose" and node.attrs["perm"][0] != 0
    same = all(list(t.shape[:1]) == list(node.inputs[0].shape[:1]) for t in node.outputs)
    return None if same and not moved else "it moves the batch"


def _not_beside(node, kinds):
    around = [other for t in node.inputs for other in t.inputs] + [other for t in node.outputs for other in t.outputs]
    op = next((other.op for other in around if other.op in kinds), None)
    return f"directly beside a {op}" if op else None


CHECKS = {
    "rank": _rank,
    "constant_weights": _unless(lambda n: isinstance(n.inputs[1], gs.Constant), "its second operand is not a constant"),
    "two_activations": _unless(lambda n: len(activations(n)) == len(n.inputs), "one of its operands is a constant"),
    "kernel": _attribute("kernel_shape", "a kernel"),
    "padding": _attribute("pads", "padding"),
    "stride": _attribute("strides", "a stride"),
    "dilation": _attribute("dilations", "dilation"),
    "clipped_relu": _clipped_relu,
    "axis": _axis,
    "softmax_axis": _softmax_axis,
    "unit_steps": _unit_steps,
    "batch_stays": _batch_stays,
    "not_beside": _not_beside,
}
