"""ONNX operators as torch functions: {operator: function (simulate.Node, *inputs) -> list of outputs}.

The table has the operators of the clean graphs of LeViT and of the other networks that are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional

from core.files import UserError
from graph.attention_body import IMAGE, OPS

if TYPE_CHECKING:
    from planning.simulate import Node


def convolve(node: Node, images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return a convolution of images [B, C, H, W]; raise UserError if its padding is uneven."""
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise UserError(f"node {node.name}: no rule for unevenly padded convolutions")
    dilations, grouped = node.attrs.get("dilations", (1, 1)), node.attrs.get("group", 1)
    return functional.conv2d(images, weight, bias, node.attrs.get("strides", (1, 1)), (top, left), dilations, grouped)


def _gemm(node, a, b, c=None):
    product = a @ (b.T if node.attrs.get("transB") else b)
    return [product if c is None else product.add_(c)]


def _slice(node, value, starts, ends, axes, steps):
    cuts = [slice(None)] * value.ndim
    for start, end, axis, step in zip(*(t.tolist() for t in (starts, ends, axes, steps))):
        cuts[axis] = slice(start, min(end, value.shape[axis]), step)
    return [value[tuple(cuts)]]


def _pool(node, value):
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    window, counted = node.attrs["kernel_shape"], bool(node.attrs.get("count_include_pad", 0))
    wide = functional.pad(value, (left, right, top, bottom))
    total = functional.avg_pool2d(wide, window, node.attrs["strides"], divisor_override=1)
    ones = functional.pad(torch.ones_like(value[:1, :1]), (left, right, top, bottom), value=float(counted))
    return [total / functional.avg_pool2d(ones, window, node.attrs["strides"], divisor_override=1)]


def _largest(node, value):
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    wide = functional.pad(value, (left, right, top, bottom), value=float("-inf"))
    return [functional.max_pool2d(wide, node.attrs["kernel_shape"], node.attrs["strides"])]


def _unsqueeze(node, value, axes):
    for axis in sorted(axis % (value.ndim + len(axes)) for axis in axes.tolist()):
        value = value.unsqueeze(axis)
    return [value]


def _gather(node, value, indices):
    axis = node.attrs.get("axis", 0) % value.ndim
    selected = value.index_select(axis, indices.flatten() % value.shape[axis])
    return [selected.reshape((*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))]


def _filled(node, shape):
    value = torch.as_tensor(node.attrs["value"].values if "value" in node.attrs else [0.0])
    return [value.reshape(()).expand(shape.tolist())]


def _batchnorm(node, value, weight, bias, mean, variance):
    return [functional.batch_norm(value, mean, variance, weight, bias, eps=node.attrs.get("epsilon", 1e-5))]


def _attention(node, source, queries=None):
    """LeViT's attention as one node (graph/attention.py), on tokens or, if its operator ends in Image, on images."""
    image, depths = node.op.endswith("Image"), [node.attrs["key_dim"], node.attrs["val_dim"]]
    q, *kv = [t.flatten(2).transpose(1, 2) if image else t for t in (source if queries is None else queries, source)]
    heads = [t.unflatten(2, (node.attrs["heads"], -1)).transpose(1, 2) for t in (q, *kv)]
    q, (k, v) = heads[0][..., : depths[0]], heads[1][..., -sum(depths) :].split(depths, dim=3)
    scores = q @ k.transpose(2, 3) + torch.as_tensor(node.attrs["bias"].values)
    result = functional.hardswish((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    shape = (source if queries is None else queries).shape
    return [result.transpose(1, 2).unflatten(2, shape[2:]) if image else result]


OPERATORS: dict[str, Callable] = {
    **dict.fromkeys([*OPS, *(op + IMAGE for op in OPS)], _attention),
    "Add": lambda node, a, b: [a + b],
    "AveragePool": _pool,
    "BatchNormalization": _batchnorm,
    "Clip": lambda node, value, low=None, high=None: [value.clamp(low, high)],
    "Concat": lambda node, *values: [torch.cat(values, dim=node.attrs["axis"])],
    "ConstantOfShape": _filled,
    "Conv": lambda node, *operands: [convolve(node, *operands)],
    "Div": lambda node, a, b: [a / b if a.is_floating_point() else a.div(b, rounding_mode="trunc")],
    "Equal": lambda node, a, b: [a == b],
    "Erf": lambda node, value: [value.erf()],
    "Expand": lambda node, value, shape: [value.expand(torch.broadcast_shapes(value.shape, shape.tolist()))],
    "Flatten": lambda node, value: [value.flatten(node.attrs.get("axis", 1))],
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, value: [value.mean(dim=(2, 3), keepdim=True)],
    "HardSigmoid": lambda node, x: [(x * node.attrs.get("alpha", 0.2)).add_(node.attrs.get("beta", 0.5)).clamp_(0, 1)],
    "HardSwish": lambda node, value: [functional.hardswish(value)],
    "MatMul": lambda node, a, b: [a @ b],
    "MaxPool": _largest,
    "Mul": lambda node, a, b: [a * b],
    "Pow": lambda node, a, b: [a**b],
    "ReduceMean": lambda node, value: [value.mean(node.attrs["axes"], keepdim=bool(node.attrs.get("keepdims", 1)))],
    "Relu": lambda node, value: [value.relu()],
    "Reshape": lambda node, x, to: [x.reshape([n or x.shape[i] for i, n in enumerate(to.tolist())])],  # 0 stays
    "Shape": lambda node, value: [torch.tensor(value.shape)],
    "Sigmoid": lambda node, value: [value.sigmoid()],
    "Slice": _slice,
    "Softmax": lambda node, value: [value.softmax(node.attrs.get("axis", -1))],
    "Split": lambda node, value, sizes: list(value.split(sizes.tolist(), dim=node.attrs.get("axis", 0))),
    "Sqrt": lambda node, value: [value.sqrt()],
    "Squeeze": lambda node, value, axes: [value.squeeze(axes.tolist())],
    "Sub": lambda node, a, b: [a - b],
    "Tanh": lambda node, value: [value.tanh()],
    "Transpose": lambda node, value: [value.permute(node.attrs["perm"])],
    "Unsqueeze": _unsqueeze,
    "Where": lambda node, condition, a, b: [torch.where(condition, a, b)],
}
