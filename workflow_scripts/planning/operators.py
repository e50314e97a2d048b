"""What other networks than LeViT are made of, as torch functions: operator -> function (node, *inputs) -> outputs."""

import torch
import torch.nn.functional as functional


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


def _axes(node, axes, ndim):
    given = node.attrs["axes"] if axes is None else axes.tolist()
    return sorted(axis % ndim for axis in given)


def _squeeze(node, value, axes=None):
    kept = set(range(value.ndim)) - set(_axes(node, axes, value.ndim))
    return [value.reshape([value.shape[dim] for dim in sorted(kept)])]


def _unsqueeze(node, value, axes=None):
    for axis in _axes(node, axes, value.ndim + len(node.attrs["axes"] if axes is None else axes)):
        value = value.unsqueeze(axis)
    return [value]


def _gather(node, value, indices):
    axis = node.attrs.get("axis", 0) % value.ndim
    taken = value.index_select(axis, indices.flatten() % value.shape[axis])
    return [taken.reshape((*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :]))]


def _filled(node, shape):
    value = torch.as_tensor(node.attrs["value"].values if "value" in node.attrs else [0.0])
    return [value.reshape(()).expand(shape.tolist())]


def _expand(node, value, shape):
    return [value.expand(torch.broadcast_shapes(value.shape, shape.tolist()))]


def _clip(node, value, low=None, high=None):
    return [value.clamp(low, high)]


def _batchnorm(node, value, weight, bias, mean, variance):
    return [functional.batch_norm(value, mean, variance, weight, bias, eps=node.attrs.get("epsilon", 1e-5))]


def _attention(node, source, queries=None):
    """LeViT's attention as one node (graph/attention.py), on tokens or, with Image behind its name, on images."""
    image, depths = node.op.endswith("Image"), [node.attrs["key_dim"], node.attrs["val_dim"]]
    q, *kv = [t.flatten(2).transpose(1, 2) if image else t for t in (source if queries is None else queries, source)]
    heads = [t.unflatten(2, (node.attrs["heads"], -1)).transpose(1, 2) for t in (q, *kv)]
    q, (k, v) = heads[0][..., : depths[0]], heads[1][..., -sum(depths) :].split(depths, dim=3)
    scores = q @ k.transpose(2, 3) + torch.as_tensor(node.attrs["bias"].values)
    result = functional.hardswish((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))
    shape = (source if queries is None else queries).shape
    return [result.transpose(1, 2).unflatten(2, shape[2:]) if image else result]


ATTENTION = ("LevitAttention", "LevitAttentionDownsample", "LevitAttentionImage", "LevitAttentionDownsampleImage")

OTHERS = {
    **dict.fromkeys(ATTENTION, _attention),
    "AveragePool": _pool,
    "BatchNormalization": _batchnorm,
    "Clip": _clip,
    "Concat": lambda node, *values: [torch.cat(values, dim=node.attrs["axis"])],
    "ConstantOfShape": _filled,
    "Div": lambda node, a, b: [a / b if a.is_floating_point() else a.div(b, rounding_mode="trunc")],
    "Equal": lambda node, a, b: [a == b],
    "Erf": lambda node, value: [value.erf()],
    "Expand": _expand,
    "Flatten": lambda node, value: [value.flatten(node.attrs.get("axis", 1))],
    "Gather": _gather,
    "GlobalAveragePool": lambda node, value: [value.mean(dim=(2, 3), keepdim=True)],
    "MaxPool": _largest,
    "Pow": lambda node, a, b: [a**b],
    "Relu": lambda node, value: [value.relu()],
    "Shape": lambda node, value: [torch.tensor(value.shape)],
    "Sigmoid": lambda node, value: [value.sigmoid()],
    "Sqrt": lambda node, value: [value.sqrt()],
    "Squeeze": _squeeze,
    "Sub": lambda node, a, b: [a - b],
    "Tanh": lambda node, value: [value.tanh()],
    "Unsqueeze": _unsqueeze,
    "Where": lambda node, condition, a, b: [torch.where(condition, a, b)],
}
