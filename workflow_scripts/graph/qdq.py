"""Explicit quantization: QuantizeLinear/DequantizeLinear pairs on a clean graph, from calibrated ranges.

The clean graph's nodes keep their names. Pairs go on the inputs that the placement of the graph variant names. Scales
are float32 amax / 127. Codes are INT8 and zero points 0; those of activations may be UINT8, which is INT8 plus 128.
Probabilities, which are never negative, may have twice the steps: UINT8, zero points 0, and scales of amax / 255.
Weights are quantized per output channel. Biases stay float, because TensorRT-RTX does not parse INT32 biases behind
DequantizeLinear. A tensor has one pair for each scale, however many nodes read it.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from core.files import UserError
from core.suggest import nearest
from graph import names, surgery

PACKED = 32  # channels side by side in a tensor of INT8 on TensorRT
QMAX = 127  # symmetric INT8, -127..127: zero is exact, and both signs have the same range
LEAST = np.finfo(np.float32).tiny  # scale: a smaller one divides by zero where denormal numbers are flushed
CODES = {  # {kind of codes: (type, the code of 0.0, largest magnitude)}
    "int8": ("int8", 0, QMAX),
    "uint8": ("uint8", 128, QMAX),
    "positive": ("uint8", 0, 255),
}
PAIR = ("QuantizeLinear", "DequantizeLinear")

# {kind of node (kind_of): {input index: the quantizer that acts on that input}}
SLOTS = {
    "conv": {0: "input_quantizer", 1: "weight_quantizer"},
    "linear": {0: "input_quantizer", 1: "weight_quantizer"},
    "attention": {0: "a_quantizer", 1: "b_quantizer"},
    "residual": {0: "skipped_quantizer"},
}

PRODUCTS = (".qk", ".av")  # modules of attention: one node in a graph variant that fuses it
OPTIONAL = ("attention", "residual")  # quantized only in networks with modules for them (model/deploy.py)


def module_of(node: gs.Node) -> str:
    """Return the path of the torch module that a node was exported from."""
    return names.module_of(node.name)


def kind_of(node: gs.Node) -> str | None:
    """Return a node's kind for placement: conv, linear, attention or residual; None if it is never quantized."""
    constant = len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant)
    if node.op == "Conv":
        return "conv"
    if node.op in ("MatMul", "Gemm"):
        return "linear" if constant else "attention"
    residual = node.op == "Add" and not any(isinstance(t, gs.Constant) for t in node.inputs)
    return "residual" if residual else None


def slots(kind: str | None, amax: Mapping, placement: Collection[str]) -> dict[int, str]:
    """Return {input index: quantizer} of the inputs of a kind of node that get pairs.

    A network whose skip connections or attention products are not modules has no quantizers for them, and no pairs.
    """
    if kind is None or kind not in placement:
        return {}
    return SLOTS[kind] if kind not in OPTIONAL or any(name.endswith(SLOTS[kind][0]) for name in amax) else {}


def weight_axis(node: gs.Node) -> int:
    """Return the axis of the output channels of a node's weight."""
    return 0 if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)) else 1


def insert(
    graph: gs.Graph,
    amax: Mapping,
    placement: Collection[str],
    excluded: Collection[str] = (),
    activations: str = "int8",
    probabilities: str = "int8",
    chained: bool = False,
) -> gs.Graph:
    """Put Q/DQ pairs on a clean graph and return it.

    graph: its nodes are named `{module}/{op}`; amax: {quantizer: float, or list per output channel}; placement: kinds
    of nodes whose inputs are quantized; excluded: modules whose nodes get no pairs; activations, probabilities: the
    types of their codes, int8 or uint8; chained: layers hand INT8 to each other, so that a tensor has one scale, the
    largest, and layers that read fewer than PACKED channels get no pairs. Raises UserError naming a quantizer without a
    range, a range that is not positive and finite, a number of ranges that is not the number of channels, or an
    excluded module that the graph lacks.
    """
    pairs, modules = {}, {module_of(node) for node in graph.nodes}
    fused = {name for name in excluded if name.endswith(PRODUCTS) and name.rpartition(".")[0] in modules}
    for module in sorted(set(excluded) - modules - fused):
        raise UserError(f"the plan names the module {module}, which the graph lacks: {nearest(module, modules)}")
    nodes = [n for n in graph.nodes if module_of(n) not in excluded and not (chained and _is_narrow(n))]
    shared = _largest(nodes, amax, placement) if chained else {}
    for node in nodes:
        for index, quantizer in slots(kind_of(node), amax, placement).items():
            axis = weight_axis(node) if quantizer == "weight_quantizer" else None
            tensor = node.inputs[index]
            scale = scale_of(f"{module_of(node)}.{quantizer}", amax, tensor, axis)
            if axis is None and chained:
                scale = np.array(shared[tensor.name], dtype=np.float32)
            kind = "int8" if axis is not None else activations
            if probabilities == "uint8" and surgery.producer(tensor, "Softmax"):
                kind = "positive"
            node.inputs[index] = _pair(graph, tensor, scale, axis, pairs, kind)
    return graph.cleanup().toposort()


def activation_scales(graph: gs.Graph, amax: Mapping, placement: Collection[str]) -> dict[str, float]:
    """Return {tensor name: scale} of the activations of a clean graph that `insert` puts pairs on.

    A calibration cache has one scale for each tensor: the largest, if nodes read it through different quantizers.
    Raises UserError as `insert` does.
    """
    return _largest(graph.nodes, amax, placement)


def _largest(nodes, amax, placement):
    scales = {}
    for node in nodes:
        for index, quantizer in slots(kind_of(node), amax, placement).items():
            tensor = node.inputs[index]
            if quantizer != "weight_quantizer":
                scale = float(scale_of(f"{module_of(node)}.{quantizer}", amax))
                scales[tensor.name] = max(scale, scales.get(tensor.name, 0.0))
    return scales


def _is_narrow(node):
    """Return whether a layer reads fewer channels than a tensor of INT8 packs."""
    weight = node.inputs[1] if kind_of(node) in ("conv", "linear") else None
    return weight is not None and weight.shape[1 - weight_axis(node)] < PACKED


def scale_of(name: str, amax: Mapping, tensor: Any = None, axis: int | None = None) -> np.ndarray:
    """Return the scale of a quantizer, float32; with an axis of its tensor's, one for each channel.

    Raises UserError as `insert` does.
    """
    if name not in amax:
        raise UserError(f"quantizer {name} has no calibrated range: delete the calibration artifact and run again")
    values = np.asarray(amax[name], dtype=np.float64)
    with np.errstate(over="ignore"):
        scale = np.asarray(values / QMAX, dtype=np.float32)
    if not (np.isfinite(scale).all() and (scale >= LEAST).all()):
        raise UserError(f"quantizer {name} has the range {amax[name]}: its tensor is constant or NaN; exclude its node")
    if axis is not None and values.shape != (tensor.shape[axis],):
        raise UserError(f"quantizer {name} has {values.size} ranges for {tensor.shape[axis]} output channels")
    return scale


def _pair(graph, tensor, scale, axis, pairs, kind):
    """Return the output of the Q/DQ pair of a tensor with a scale; pairs: {(tensor name, scale): output}."""
    key = (tensor.name, scale.tobytes())
    if key not in pairs:
        label = f"{tensor.name}.q{sum(name == tensor.name for name, _ in pairs) or ''}"
        codes = quantize(graph, tensor, scale, axis, kind, label)
        parameters = codes.inputs[0].inputs[1:]
        values = gs.Variable(f"{label}_values", dtype=np.float32, shape=tensor.shape)
        graph.nodes.append(
            gs.Node("DequantizeLinear", f"{label}/DQ", dict(codes.inputs[0].attrs), [codes, *parameters], [values])
        )
        pairs[key] = values
    return pairs[key]


def quantize(
    graph: gs.Graph,
    tensor: gs.Tensor,
    scale: np.ndarray,
    axis: int | None = None,
    kind: str = "int8",
    label: str | None = None,
) -> gs.Variable:
    """Add a QuantizeLinear of a tensor and return its codes; kind: of CODES; label: begins the names of its parts."""
    label = label or f"{tensor.name}.q"
    dtype, zero_code, largest = CODES[kind]
    zero = gs.Constant(f"{label}_zero", np.full(scale.shape, zero_code, dtype=dtype))
    parameters = [gs.Constant(f"{label}_scale", np.asarray(scale * np.float32(QMAX / largest))), zero]
    codes = gs.Variable(f"{label}_codes", dtype=np.dtype(dtype), shape=tensor.shape)
    attrs = {} if axis is None else {"axis": axis}
    graph.nodes.append(gs.Node("QuantizeLinear", f"{label}/Q", attrs, [tensor, *parameters], [codes]))
    return codes


def add_pair(graph: gs.Graph, tensor: gs.Tensor, parameters: list, attrs: dict, label: str) -> gs.Variable:
    """Add a Q/DQ pair of a tensor and return its output; parameters: [scale, zero point]; label: as of `quantize`."""
    codes = gs.Variable(f"{label}_codes", dtype=parameters[1].dtype, shape=tensor.shape)
    values = gs.Variable(f"{label}_values", dtype=np.float32, shape=tensor.shape)
    for op, short, source, result in zip(PAIR, ("Q", "DQ"), (tensor, codes), (codes, values)):
        graph.nodes.append(gs.Node(op, f"{label}/{short}", dict(attrs), [source, *parameters], [result]))
    return values
