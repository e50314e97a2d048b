"""Which node of an ONNX graph each layer of a weakly typed network came from, and a plan of precisions on its layers.

The parser calls a node's layer after the node, and a second one (a Gemm's addition of its bias) `{node}_{number}`; from
8.6 on each also carries `[ONNX Layer: {node}]` as metadata. Layers that it adds between them, for a broadcast for
instance, are named after no node.
"""

import re

METADATA = re.compile(r"\[ONNX Layer: (.*?)\]")
PRODUCTS = ("Conv", "Gemm", "MatMul")  # operations whose kernel also adds what an Add behind it does
LEFT_ALONE = ("CONSTANT", "QUANTIZE", "DEQUANTIZE", "SHAPE", "CAST")  # kinds of helper that take no precision


def node_of(layer, nodes):
    """Return the name of the node that a layer came from, or None for a layer that the parser added."""
    found = METADATA.match(getattr(layer, "metadata", "") or "")
    if found and found.group(1) in nodes:
        return found.group(1)
    name = layer.name
    while name not in nodes:
        shorter = re.sub(r"_\d+$", "", name)
        if shorter == name:
            return None
        name = shorter
    return name


def layers_of(network):
    """Return the layers of a network, in order."""
    return [network.get_layer(number) for number in range(network.num_layers)]


def outputs_of(layer):
    return [layer.get_output(number) for number in range(layer.num_outputs)]


def inputs_of(layer):
    """Return the tensors that a layer reads; one that it does without is left out."""
    found = (layer.get_input(number) for number in range(layer.num_inputs))
    return [tensor for tensor in found if tensor is not None]


def follow(trt, network, plan):
    """Give the layers of a plan's nodes their precision and outputs' type; return (layers, nodes without a layer).

    plan: {"nodes": [{"name", "precision"}], "graph": [all names]}. The float layers that the parser added beside a
    plan's node, and behind those, get its precision too: what they hold may be beyond the narrower type. So do
    additions behind a plan's product.
    """
    types = {"fp32": trt.float32, "fp16": trt.float16}
    wanted = {node["name"]: types[node["precision"]] for node in plan["nodes"]}
    layers, nodes = layers_of(network), {*plan.get("graph", ()), *wanted}
    origins = [node_of(layer, nodes) for layer in layers]
    kinds = {number: wanted[origin] for number, origin in enumerate(origins) if origin in wanted}
    kinds.update(_sums(layers, origins, kinds))
    _spread(trt, layers, origins, kinds)
    followed = 0
    for number, kind in kinds.items():
        if all(output.dtype in types.values() for output in outputs_of(layers[number])):
            layers[number].precision = kind
            for place in range(layers[number].num_outputs):
                layers[number].set_output_type(place, kind)
            followed += 1
    return followed, sorted(wanted.keys() - set(origins))


def _sums(layers, origins, kinds):
    """Return {layer number: precision} of the Add nodes that read a plan's product.

    TensorRT makes one kernel of both. Told of the product alone, 8.5.3 lost a residual stream to an overflow that the
    product in FP32 does not have (docs/measurements/plans-h200.md).
    """
    held = {t.name: kind for n, kind in kinds.items() if _op(origins[n]) in PRODUCTS for t in outputs_of(layers[n])}
    sums = [number for number, origin in enumerate(origins) if number not in kinds and _op(origin) == "Add"]
    return {number: held[t.name] for number in sums for t in inputs_of(layers[number]) if t.name in held}


def _op(node):
    """Return the operation in a node's name (module/Operation_number), or None."""
    return node and node.rsplit("/", 1)[-1].split("_")[0]


def _spread(trt, layers, origins, kinds):
    """Add to {layer number: kind} the added layers that are beside one of them, until there are no more."""
    helpers = [
        number for number, origin in enumerate(origins) if origin is None and takes_precision(trt, layers[number])
    ]
    names = {
        number: ({t.name for t in inputs_of(layers[number])}, {t.name for t in outputs_of(layers[number])})
        for number in range(len(layers))
    }
    pending = True
    while pending:
        pending = False
        for number in helpers:
            beside = [k for k in kinds if names[k][1] & names[number][0] or names[k][0] & names[number][1]]
            if number not in kinds and beside:
                kinds[number], pending = kinds[beside[0]], True


def takes_precision(trt, layer):
    """Return whether a layer is of a kind that computes or moves numbers, and so can be given a precision."""
    known = [getattr(trt.LayerType, name) for name in LEFT_ALONE if hasattr(trt.LayerType, name)]
    return layer.type not in known
