"""Which node of an ONNX graph each layer of a weakly typed network came from, and a plan of precisions on its layers.

The parser calls a node's layer after the node, and a second one (a Gemm's addition of its bias) `{node}_{number}`; from
8.6 on each also carries `[ONNX Layer: {node}]` as metadata. Layers that it adds between them, for a broadcast for
instance, are named after no node.
"""

from __future__ import annotations

import re
from typing import Any

METADATA = re.compile(r"\[ONNX Layer: (.*?)\]")
PRODUCTS = ("Conv", "Gemm", "MatMul")  # operations whose kernel includes a following Add
LEFT_ALONE = ("CONSTANT", "QUANTIZE", "DEQUANTIZE", "SHAPE", "CAST")  # layer types that take no precision


def node_of(layer: Any, nodes: set[str]) -> str | None:
    """Return the name of the node that a layer came from, or None for a layer that the parser added."""
    metadata = METADATA.match(getattr(layer, "metadata", "") or "")
    if metadata and metadata.group(1) in nodes:
        return metadata.group(1)
    name = layer.name
    while name not in nodes:
        shorter = re.sub(r"_\d+$", "", name)
        if shorter == name:
            return None
        name = shorter
    return name


def layers_of(network: Any) -> list[Any]:
    """Return the layers of a network, in order."""
    return [network.get_layer(number) for number in range(network.num_layers)]


def outputs_of(layer: Any) -> list[Any]:
    """Return the tensors that a layer writes."""
    return [layer.get_output(number) for number in range(layer.num_outputs)]


def inputs_of(layer: Any) -> list[Any]:
    """Return the tensors that a layer reads, without absent optional ones."""
    tensors = (layer.get_input(number) for number in range(layer.num_inputs))
    return [tensor for tensor in tensors if tensor is not None]


def is_kind(trt: Any, layer: Any, *kinds: str) -> bool:
    """Return whether a layer is of one of some types; a version may lack a type."""
    return any(layer.type == getattr(trt.LayerType, kind, None) for kind in kinds)


def apply_plan(trt: Any, network: Any, plan: dict) -> tuple[int, list[str]]:
    """Set precision and output types of a plan's layers; return (number of layers, nodes without a layer).

    plan: {"nodes": [{"name", "precision"}], "graph": [all names]}. The float layers that the parser added beside a
    plan's node, and behind those, get its precision too, because their values may exceed the narrower type. So do
    additions behind a plan's product.
    """
    types = {"fp32": trt.float32, "fp16": trt.float16}
    wanted = {node["name"]: types[node["precision"]] for node in plan["nodes"]}
    layers, nodes = layers_of(network), {*plan.get("graph", ()), *wanted}
    origins = [node_of(layer, nodes) for layer in layers]
    kinds = {number: wanted[origin] for number, origin in enumerate(origins) if origin in wanted}
    kinds.update(_sums(layers, origins, kinds))
    _spread(trt, layers, origins, kinds)
    count = 0
    for number, kind in kinds.items():
        if all(output.dtype in types.values() for output in outputs_of(layers[number])):
            layers[number].precision = kind
            for output in range(layers[number].num_outputs):
                layers[number].set_output_type(output, kind)
            count += 1
    return count, sorted(wanted.keys() - set(origins))


def _sums(layers, origins, kinds):
    """Return {layer number: precision} of the Add nodes that read a plan's product.

    TensorRT fuses both. With the product alone in FP32, 8.5.3 lost a residual stream to an overflow that the product
    does not have (docs/measurements/plans-h200.md).
    """
    products = {t.name: kind for n, kind in kinds.items() if _op(origins[n]) in PRODUCTS for t in outputs_of(layers[n])}
    sums = [number for number, origin in enumerate(origins) if number not in kinds and _op(origin) == "Add"]
    return {number: products[t.name] for number in sums for t in inputs_of(layers[number]) if t.name in products}


def _op(node):
    """Return the operation in a node's name (module/Operation_number), or None."""
    return node and node.rsplit("/", 1)[-1].split("_")[0]


def _spread(trt, layers, origins, kinds):
    """Add to {layer number: kind} the added layers that are beside one of them, until there are no more."""
    helpers = [n for n, origin in enumerate(origins) if origin is None and takes_precision(trt, layers[n])]
    names = [({t.name for t in inputs_of(layer)}, {t.name for t in outputs_of(layer)}) for layer in layers]
    pending = True
    while pending:
        pending = False
        for number in helpers:
            beside = [k for k in kinds if names[k][1] & names[number][0] or names[k][0] & names[number][1]]
            if number not in kinds and beside:
                kinds[number], pending = kinds[beside[0]], True


def takes_precision(trt: Any, layer: Any) -> bool:
    """Return whether a layer computes or moves numbers, and so takes a precision."""
    return not is_kind(trt, layer, *LEFT_ALONE)
