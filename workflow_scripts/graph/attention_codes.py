"""Attention nodes that take and give codes of INT8: their Q/DQ pairs become attributes of the node.

TensorRT fuses no pair into a plugin. A Q node before it, whose codes it reads, and a DQ node behind it, which reads its
codes, are what TensorRT 8 takes instead (NVIDIA/TensorRT, issue 3055). Such a node is `{op}Int8`, `{op}Int8In` or
`{op}Int8Out` (attention_body.py) with the attributes q_scale, k_scale, v_scale and result_scale: what a code is worth.

A tensor of codes has one scale, and queries are five times smaller than keys and values. The layer that writes them
together therefore scales the channels of each to one range, in its weights per output channel and in its bias.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_graphsurgeon as gs

from graph import attention, qdq, surgery
from graph.attention_body import DOMAIN, codes_suffix

QUANTIZERS = {"q": "qk.a_quantizer", "k": "qk.b_quantizer", "v": "av.b_quantizer"}
PARTS = (("q", "k", "v"),), (("k", "v"), ("q",))  # of each input, by the number of inputs less one


def take_codes(graph: gs.Graph, amax: Mapping, placement: Collection[str], excluded: Collection[str] = ()) -> gs.Graph:
    """Let the attention nodes of a quantized graph take codes, and give them where a Q node reads their result.

    amax, placement, excluded: as of qdq.insert. Without `attention` in the placement the nodes stay as they are. A node
    takes no codes if a module of its products or of the layers before it is excluded, and gives none if its projection
    is. Raises UserError as qdq.insert does.
    """
    for node in [n for n in graph.nodes if n.domain == DOMAIN and "attention" in placement]:
        module = qdq.module_of(node)
        writers = [qdq.module_of(tensor.inputs[0]) for tensor in node.inputs]
        takes = not {*writers, *(module + product for product in qdq.PRODUCTS)} & set(excluded)
        if takes:
            scales = {part: qdq.scale_of(f"{module}.{name}", amax) for part, name in QUANTIZERS.items()}
            node.attrs.update({f"{part}_scale": float(scale) for part, scale in scales.items()})
            for index, parts in enumerate(PARTS[len(node.inputs) - 1]):
                node.inputs[index] = _codes_of(graph, node, index, {part: scales[part] for part in parts})
        gives = _give(node)
        node.op += codes_suffix(takes, gives)
    return attention.declare(graph.cleanup().toposort())


def _codes_of(graph, node, index, scales):
    """Return the codes of an input whose parts, each of `{part}_dim` channels a head, have these scales."""
    tensor, largest = node.inputs[index], max(scales.values())
    writer = surgery.producer(tensor, "Conv")
    if len(scales) > 1 and writer is not None and surgery.consumer(tensor) is node and len(writer.inputs) == 3:
        sizes = [node.attrs["val_dim" if part == "v" else "key_dim"] for part in scales]
        factors = np.repeat([largest / scale for scale in scales.values()], sizes)
        _scale_rows(writer, np.tile(factors, node.attrs["heads"]).astype(np.float32))
    else:
        node.attrs.update({f"{part}_scale": float(largest) for part in scales})
    return qdq.quantize(graph, tensor, largest)


def _scale_rows(conv, factors):
    """Multiply the output channels of a convolution, in its weight or in the pair of its weight, and in its bias."""
    bias, dequantize = conv.inputs[2], surgery.producer(conv.inputs[1], "DequantizeLinear")
    conv.inputs[2] = gs.Constant(f"{conv.name}_scaled_bias", bias.values * factors)
    weight = conv.inputs[1] if dequantize is None else dequantize.inputs[0].inputs[0].inputs[0]
    scaled = gs.Constant(f"{conv.name}_scaled_weight", weight.values * factors[:, None, None, None])
    if dequantize is None:
        conv.inputs[1] = scaled
        return
    quantize = dequantize.inputs[0].inputs[0]
    scale = gs.Constant(f"{conv.name}_scaled_scale", quantize.inputs[1].values * factors)
    quantize.inputs[0], quantize.inputs[1] = scaled, scale
    dequantize.inputs[1] = scale


def _give(node):
    """Make a node write the codes of the only Q node that reads its result, if there is one; return whether it does."""
    quantize = surgery.consumer(node.outputs[0], "QuantizeLinear")
    if quantize is None:
        return False
    node.attrs["result_scale"] = float(quantize.inputs[1].values)
    codes = list(quantize.outputs)
    quantize.outputs.clear()
    node.outputs = codes
    return True
