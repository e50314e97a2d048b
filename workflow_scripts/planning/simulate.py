"""A clean graph as torch functions, in which single nodes can be computed as a lower precision would.

A treatment is a function (node, inputs) -> outputs in place of `compute`; what it returns is float32 again, rounded
as the precision rounds. Tests hold it to ONNX's reference evaluator on the typed graph (ONNX Runtime has no FP16
kernels on x86 and leaves out roundings between nodes: half the error), and to ONNX Runtime on the Q/DQ graph.
"""

import concurrent.futures
import math

import onnx_graphsurgeon as gs
import torch
import torch.nn.functional as functional

from core.files import UserError
from graph import qdq
from planning import operators

LAYOUT = ("Reshape", "Transpose", "Split", "Slice")  # they move numbers and change none
BLOCK = 16  # products that tensor cores add up before they round to the accumulator's type (HMMA's K)


class Node:
    """A graph's node: its name, op, attributes, names of inputs and outputs, and of the inputs that are constants."""

    def __init__(self, node):
        self.name, self.op, self.attrs = node.name, node.op, dict(node.attrs)
        self.inputs, self.outputs = [t.name for t in node.inputs], [t.name for t in node.outputs]
        self.constant = [isinstance(t, gs.Constant) for t in node.inputs]
        self.kind = qdq.kind_of(node)
        self.module = qdq.module_of(node)
        self.axis = qdq.weight_axis(node) if self.kind in ("conv", "linear") else None


class Network:
    """The nodes of a clean graph in topological order, and its constants as tensors."""

    def __init__(self, graph):
        graph = graph.toposort()
        self.nodes = [Node(node) for node in graph.nodes]
        self.input, self.output = graph.inputs[0].name, graph.outputs[0].name
        tensors = graph.tensors().items()
        self.constants = {n: torch.from_numpy(t.values.copy()) for n, t in tensors if isinstance(t, gs.Constant)}
        unknown = sorted({node.op for node in self.nodes} - OPERATORS.keys())
        if unknown:
            raise UserError(f"no rule for the operators {', '.join(unknown)}: a plan needs a clean graph")
        self._last = {name: place for place, node in enumerate(self.nodes) for name in node.inputs}

    def tensors(self, images):
        """Return {name: tensor} of all activations in FP32 for images [N, 3, H, W]."""
        values = {self.input: images}
        for node in self.nodes:
            values.update(zip(node.outputs, compute(node, self._inputs(node, values, {}))))
        return values

    def logits(self, known, treatments):
        """Return the logits [N, C] with some nodes treated.

        known: activations in FP32, at least the input; only what the treatments change is computed again.
        treatments: {node name: treatment}.
        """
        changed = {}
        for place, node in enumerate(self.nodes):
            treatment = treatments.get(node.name)
            fresh = treatment or node.outputs[0] not in known or any(name in changed for name in node.inputs)
            if fresh:
                outputs = (treatment or compute)(node, self._inputs(node, known, changed))
                changed.update(zip(node.outputs, outputs))
                for name in node.inputs:
                    if self._last.get(name) == place:
                        changed.pop(name, None)
        return changed.get(self.output, known.get(self.output))

    def _inputs(self, node, known, changed):
        places = (changed, known, self.constants)
        return [next(place[name] for place in places if name in place) for name in node.inputs]


class Half:
    """The treatment of a node in FP16: inputs, weights and outputs are rounded; products are added up in FP32.

    blocked: instead round the sum to FP16 after every BLOCK products, as an FP16 accumulator does at its worst.
    """

    def __init__(self, blocked=False):
        self.compute = compute_blocked if blocked else compute
        self._weights = {}

    def __call__(self, node, inputs):
        inputs = [self._rounded(node, place, value) for place, value in enumerate(inputs)]
        outputs = self.compute(node, inputs)
        return outputs if node.op in LAYOUT else [half(output) for output in outputs]

    def _rounded(self, node, place, value):
        if not node.constant[place]:
            return half(value)
        name = node.inputs[place]
        if name not in self._weights:
            self._weights[name] = half(value)
        return self._weights[name]


class Quantized:
    """The treatment of a node with Q/DQ pairs on its inputs, as graph/qdq.py places them.

    amax: {quantizer: range}; the inputs of a node that has no quantizers stay as they are.
    """

    def __init__(self, amax):
        self.amax, self._weights = amax, {}

    def __call__(self, node, inputs):
        inputs = list(inputs)
        for place, quantizer in qdq.SLOTS.get(node.kind, {}).items():
            name = f"{node.module}.{quantizer}"
            if not node.constant[place]:
                inputs[place] = self._quantized(node, name, inputs[place])
            elif name not in self._weights:
                self._weights[name] = self._quantized(node, name, inputs[place])
            inputs[place] = self._weights.get(name, inputs[place])
        return compute(node, inputs)

    def _quantized(self, node, name, value):
        scale = torch.tensor(self.amax[name], dtype=torch.float64).div(qdq.QMAX).float()
        if not scale.ndim:
            return torch.fake_quantize_per_tensor_affine(value, float(scale), 0, -128, 127)
        return torch.fake_quantize_per_channel_affine(
            value, scale, torch.zeros(len(scale), dtype=torch.int32), node.axis, -128, 127
        )


def each(function, chunks, workers):
    """Return function(chunk) of all chunks, in order, on several threads; what it returns depends on no thread count.

    One chunk is one thread's: torch's own threads wait for each other after every node.
    """
    torch.set_num_threads(1)
    with concurrent.futures.ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(torch.no_grad()(function), chunks))


def half(value):
    """Return float values rounded to FP16, as float32; others as they are."""
    return value.half().float() if value.is_floating_point() else value


def compute(node, inputs):
    """Return a node's outputs in FP32."""
    return OPERATORS[node.op](node, *inputs)


def compute_blocked(node, inputs):
    """Return a node's outputs with sums of products that are rounded to FP16 after every BLOCK of them."""
    if node.op not in ("Conv", "Gemm", "MatMul") or node.attrs.get("group", 1) != 1:  # groups add up few products
        return compute(node, inputs)
    left, right, *bias = inputs
    if node.op == "Gemm" and node.attrs.get("transB"):
        right = right.T
    total = None
    for a, b in _blocks(node, left, right):
        part = _convolve(node, a, b) if node.op == "Conv" else a @ b
        total = half(part) if total is None else half(total + part)
    if bias:
        total = half(total + (bias[0].reshape(1, -1, 1, 1) if node.op == "Conv" else bias[0]))
    return [total]


def _blocks(node, left, right):
    """Yield parts of both operands along the dimension that is summed over."""
    if node.op != "Conv":
        return zip(left.split(BLOCK, dim=-1), right.split(BLOCK, dim=-2))
    channels = max(1, BLOCK // math.prod(right.shape[2:]))
    return zip(left.split(channels, dim=1), right.split(channels, dim=1))


# Operators: function (node, *inputs) -> outputs


def _convolve(node, images, weight, bias=None):
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    if (top, left) != (bottom, right):
        raise UserError(f"node {node.name}: unevenly padded convolutions have no rule here")
    dilations, grouped = node.attrs.get("dilations", (1, 1)), node.attrs.get("group", 1)
    return functional.conv2d(images, weight, bias, node.attrs.get("strides", (1, 1)), (top, left), dilations, grouped)


def _gemm(node, a, b, c=None):
    product = a @ (b.T if node.attrs.get("transB") else b)
    return [product if c is None else product + c]


def _reshape(node, value, shape):
    return [value.reshape([value.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])]


def _split(node, value, sizes=None):
    axis = node.attrs.get("axis", 0)
    lengths = node.attrs["split"] if sizes is None else sizes.tolist()
    return list(value.split(lengths, dim=axis))


def _slice(node, value, starts, ends, axes, steps):
    cuts = [slice(None)] * value.ndim
    for start, end, axis, step in zip(*(t.tolist() for t in (starts, ends, axes, steps))):
        cuts[axis] = slice(start, min(end, value.shape[axis]), step)
    return [value[tuple(cuts)]]


def _hard_sigmoid(node, value):
    return [(value * node.attrs.get("alpha", 0.2) + node.attrs.get("beta", 0.5)).clamp_(0, 1)]


OPERATORS = {
    **operators.OTHERS,
    "Add": lambda node, a, b: [a + b],
    "Conv": lambda node, *operands: [_convolve(node, *operands)],
    "Gemm": _gemm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, value: [functional.hardswish(value)],
    "MatMul": lambda node, a, b: [a @ b],
    "Mul": lambda node, a, b: [a * b],
    "ReduceMean": lambda node, value: [value.mean(node.attrs["axes"], keepdim=bool(node.attrs.get("keepdims", 1)))],
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": lambda node, value: [value.softmax(node.attrs.get("axis", -1))],
    "Split": _split,
    "Transpose": lambda node, value: [value.permute(node.attrs["perm"])],
}
