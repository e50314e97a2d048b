"""Explicit quantization: QuantizeLinear/DequantizeLinear pairs on the clean graph, from calibrated ranges.

The clean graph's nodes stay as they are, under their names; a pair is put on the inputs that the class's placement
names. Scales are float32 amax/127, zero points 0, weights per output channel, biases stay float (TensorRT-RTX does
not parse INT32 biases behind DequantizeLinear). One tensor gets one pair, however many nodes read it.
"""

import numpy as np
import onnx_graphsurgeon as gs

from configuration.schema import nearest
from core.files import UserError

QMAX = 127  # symmetric INT8: -127..127, so that zero is exact and signs are treated alike

# Which quantizer acts on which input of a node, by kind of node (see kind_of): {kind: {input index: quantizer}}.
SLOTS = {
    "conv": {0: "input_quantizer", 1: "weight_quantizer"},
    "linear": {0: "input_quantizer", 1: "weight_quantizer"},
    "attention": {0: "a_quantizer", 1: "b_quantizer"},
    "residual": {0: "skipped_quantizer"},
}

OPTIONAL = ("attention", "residual")  # kinds that only networks with modules for them (model/deploy.py) quantize


def module_of(node):
    """Return the path of the torch module that a node was exported from."""
    return node.name.rsplit("/", 1)[0]


def kind_of(node):
    """Return a node's kind for placement: conv, linear, attention, residual; None for what is never quantized."""
    constant = len(node.inputs) > 1 and isinstance(node.inputs[1], gs.Constant)
    if node.op == "Conv":
        return "conv"
    if node.op in ("MatMul", "Gemm"):
        return "linear" if constant else "attention"
    residual = node.op == "Add" and not any(isinstance(t, gs.Constant) for t in node.inputs)
    return "residual" if residual else None


def slots(kind, amax, placement):
    """Return {input index: quantizer} of a node of a kind that gets pairs on its inputs, nothing for any other.

    A network whose skip connections or attention products are no modules has no quantizers there, and gets no pairs.
    """
    if kind not in placement or (kind in OPTIONAL and not any(name.endswith(SLOTS[kind][0]) for name in amax)):
        return {}
    return SLOTS[kind]


def weight_axis(node):
    """Return the axis of output channels of a node's weight."""
    if node.op == "Conv":
        return 0
    return 0 if node.op == "Gemm" and node.attrs.get("transB", 0) else 1


def insert(graph, amax, placement, excluded=()):
    """Put Q/DQ pairs on a clean graph.

    graph: graphsurgeon graph whose node names are `{module}/{op}`; amax: {quantizer name: float, or list per output
    channel}; placement: kinds of nodes whose inputs are quantized; excluded: modules whose nodes get no pairs. Raises
    UserError naming a quantizer without a range, a range that is not positive and finite, ranges whose number is not
    that of the channels, or an excluded module that the graph lacks.
    """
    pairs, modules = {}, {module_of(node) for node in graph.nodes}
    for module in sorted(set(excluded) - modules):
        raise UserError(f"the plan names the module {module}, which the graph lacks: {nearest(module, modules)}")
    for node in list(graph.nodes):
        placed = slots(kind_of(node), amax, placement) if module_of(node) not in excluded else {}
        for index, quantizer in placed.items():
            name = f"{module_of(node)}.{quantizer}"
            axis = weight_axis(node) if quantizer == "weight_quantizer" else None
            scale = _scale(name, amax, node.inputs[index], axis)
            node.inputs[index] = _pair(graph, node.inputs[index], scale, axis, pairs)
    return graph.cleanup().toposort()


def activation_scales(graph, amax, placement):
    """Return {tensor name: scale} of a clean graph's activations, those that `insert` puts pairs on.

    A tensor that nodes read through unlike quantizers has several pairs; a cache has room for one scale, the largest.
    Raises UserError as `insert` does.
    """
    scales = {}
    for node in graph.nodes:
        for index, quantizer in slots(kind_of(node), amax, placement).items():
            tensor = node.inputs[index]
            if quantizer != "weight_quantizer":
                scale = float(_scale(f"{module_of(node)}.{quantizer}", amax, tensor, None))
                scales[tensor.name] = max(scale, scales.get(tensor.name, 0.0))
    return scales


def _scale(name, amax, tensor, axis):
    if name not in amax:
        raise UserError(f"quantizer {name} has no calibrated range: delete the calibration artifact and run again")
    values = np.asarray(amax[name], dtype=np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError(f"quantizer {name} has the range {amax[name]}: its tensor is constant or NaN; exclude its node")
    if axis is not None and values.shape != (tensor.shape[axis],):
        raise UserError(f"quantizer {name} has {values.size} ranges for {tensor.shape[axis]} output channels")
    return np.asarray(values / QMAX, dtype=np.float32)


def _pair(graph, tensor, scale, axis, pairs):
    key = (tensor.name, scale.tobytes())
    if key not in pairs:
        label = f"{tensor.name}.q{sum(name == tensor.name for name, _ in pairs) or ''}"
        parameters = [
            gs.Constant(f"{label}_scale", scale),
            gs.Constant(f"{label}_zero", np.zeros(scale.shape, dtype=np.int8)),
        ]
        attrs = {} if axis is None else {"axis": axis}
        codes = gs.Variable(f"{label}_codes", dtype=np.int8, shape=tensor.shape)
        values = gs.Variable(f"{label}_values", dtype=np.float32, shape=tensor.shape)
        graph.nodes.append(gs.Node("QuantizeLinear", f"{label}/Q", attrs, [tensor, *parameters], [codes]))
        graph.nodes.append(gs.Node("DequantizeLinear", f"{label}/DQ", attrs, [codes, *parameters], [values]))
        pairs[key] = values
    return pairs[key]
