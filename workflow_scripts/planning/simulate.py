"""A clean graph as torch functions, in which single nodes can be computed as in a lower precision.

A treatment is a function (node, inputs) -> outputs that replaces `compute`; its outputs are float32, rounded as the
precision rounds. Tests compare it to ONNX's reference evaluator on the strongly typed graph (ONNX Runtime has no FP16
kernels on x86 and omits roundings between nodes, which halves the error), and to ONNX Runtime on the Q/DQ graph.
"""

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import onnx_graphsurgeon as gs
import torch

from core.files import UserError
from graph import qdq
from planning.operators import OPERATORS, convolve

LAYOUT = ("Reshape", "Transpose", "Split", "Slice")  # operators that move numbers and change none
BLOCK = 16  # products that tensor cores add up before they round to the accumulator's type (K of HMMA)


class Node:
    """A node of a graph: name, op, attributes, names of inputs and outputs, and which inputs are constants."""

    def __init__(self, node: gs.Node):
        self.name, self.op, self.attrs = node.name, node.op, dict(node.attrs)
        self.inputs, self.outputs = [t.name for t in node.inputs], [t.name for t in node.outputs]
        self.constant = [isinstance(t, gs.Constant) for t in node.inputs]
        self.kind = qdq.kind_of(node)
        self.module = qdq.module_of(node)
        self.axis = qdq.weight_axis(node) if self.kind in ("conv", "linear") else None


class Network:
    """The nodes of a clean graph in topological order, and its constants as tensors."""

    def __init__(self, graph: gs.Graph):
        graph = graph.toposort()
        self.nodes = [Node(node) for node in graph.nodes]
        self.input, self.output = graph.inputs[0].name, graph.outputs[0].name
        tensors = graph.tensors().items()
        self.constants = {n: torch.from_numpy(t.values.copy()) for n, t in tensors if isinstance(t, gs.Constant)}
        unknown = sorted({node.op for node in self.nodes} - OPERATORS.keys())
        if unknown:
            raise UserError(f"no rule for the operators {', '.join(unknown)}: a plan needs a clean graph")
        self._last = {name: index for index, node in enumerate(self.nodes) for name in node.inputs}

    def activations(self, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, activation in FP32) for images [N, 3, H, W], the input first; keep what is still to be read."""
        values = {self.input: images}
        yield self.input, images
        for index, node in enumerate(self.nodes):
            outputs = dict(zip(node.outputs, compute(node, self._inputs(node, values, {}))))
            yield from outputs.items()
            values.update(outputs)
            self._drop_read(values, index)

    def tensors(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return {name: tensor} of all activations in FP32 for images [N, 3, H, W]."""
        return dict(self.activations(images))

    def logits(self, known: Mapping[str, torch.Tensor], treatments: Mapping[str, Callable]) -> torch.Tensor:
        """Return the logits [N, C] with some nodes treated.

        known: {name: activation in FP32}, at least the input; only nodes that the treatments affect are computed again.
        treatments: {node name: treatment}.
        """
        changed = {}
        for index, node in enumerate(self.nodes):
            treatment = treatments.get(node.name)
            if treatment or node.outputs[0] not in known or any(name in changed for name in node.inputs):
                outputs = (treatment or compute)(node, self._inputs(node, known, changed))
                changed.update(zip(node.outputs, outputs))
                self._drop_read(changed, index)
        return changed.get(self.output, known.get(self.output))

    def _drop_read(self, values, index):
        """Remove the values that no node behind this one reads."""
        for name in self.nodes[index].inputs:
            if self._last[name] == index:
                values.pop(name, None)

    def _inputs(self, node, known, changed):
        sources = (changed, known, self.constants)
        return [next(source[name] for source in sources if name in source) for name in node.inputs]


class Half:
    """The treatment of a node in FP16: inputs, weights and outputs are rounded, and sums of products are in FP32.

    blocked: round the sums to FP16 after every BLOCK products instead, as an FP16 accumulator does at its worst.
    """

    def __init__(self, blocked: bool = False):
        self.compute = compute_blocked if blocked else compute
        self._weights = {}

    def __call__(self, node: Node, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs of a node, as `compute` does, rounded to FP16."""
        inputs = [self._rounded(node, index, value) for index, value in enumerate(inputs)]
        outputs = self.compute(node, inputs)
        return outputs if node.op in LAYOUT else [half(output) for output in outputs]

    def _rounded(self, node, index, value):
        if not node.constant[index]:
            return half(value)
        name = node.inputs[index]
        if name not in self._weights:
            self._weights[name] = half(value)
        return self._weights[name]


class Quantized:
    """The treatment of a node with Q/DQ pairs on its inputs, as graph/qdq.py places them.

    amax: {quantizer: range}; a node without quantizers computes on its inputs as they are.
    """

    def __init__(self, amax: Mapping):
        self.amax, self._weights = amax, {}

    def __call__(self, node: Node, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the outputs of a node, as `compute` does, of quantized inputs."""
        inputs = list(inputs)
        for index, quantizer in qdq.SLOTS.get(node.kind or "", {}).items():
            name = f"{node.module}.{quantizer}"
            if not node.constant[index]:
                inputs[index] = self._quantized(node, name, inputs[index])
            elif name not in self._weights:
                self._weights[name] = self._quantized(node, name, inputs[index])
            inputs[index] = self._weights.get(name, inputs[index])
        return compute(node, inputs)

    def _quantized(self, node, name, value):
        scale = torch.tensor(self.amax[name], dtype=torch.float64).div(qdq.QMAX).float()
        if not scale.ndim:  # as torch.fake_quantize_per_tensor_affine, in an eighth of its time
            return value.mul(1 / scale).round_().clamp_(-128, 127).mul_(scale)
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(value, scale, zero, node.axis, -128, 127)


def each(function: Callable, chunks: Iterable, workers: int) -> list:
    """Return function(chunk) of all chunks, in order, on several threads; the number of threads changes no result.

    Each chunk runs on one thread, because torch's own threads wait for each other after every node.
    """
    torch.set_num_threads(1)
    with concurrent.futures.ThreadPoolExecutor(max(workers, 1)) as pool:
        return list(pool.map(torch.no_grad()(function), chunks))


def half(value: torch.Tensor) -> torch.Tensor:
    """Return float values rounded to FP16, as float32; other values unchanged."""
    return value.half().float() if value.is_floating_point() else value


def compute(node: Node, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return a node's outputs in FP32."""
    return OPERATORS[node.op](node, *inputs)


def compute_blocked(node: Node, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return a node's outputs with the sums of products rounded to FP16 after every BLOCK products."""
    if node.op not in ("Conv", "Gemm", "MatMul") or node.attrs.get("group", 1) != 1:  # a group adds up few products
        return compute(node, inputs)
    left, right, *bias = inputs
    if node.op == "Gemm" and node.attrs.get("transB"):
        right = right.T
    total = None
    for a, b in _blocks(node, left, right):
        part = convolve(node, a, b) if node.op == "Conv" else a @ b
        total = half(part) if total is None else half(total + part)
    if bias:
        total = half(total + (bias[0].reshape(1, -1, 1, 1) if node.op == "Conv" else bias[0]))
    return [total]


def _blocks(node, left, right):
    """Return pairs of parts of both operands along the dimension that is summed over."""
    if node.op != "Conv":
        return zip(left.split(BLOCK, dim=-1), right.split(BLOCK, dim=-2))
    channels = max(1, BLOCK // math.prod(right.shape[2:]))
    return zip(left.split(channels, dim=1), right.split(channels, dim=1))
