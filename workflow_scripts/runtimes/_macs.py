"""The share of an engine's multiply-accumulates (MACs) that its layers compute in INT8."""

from __future__ import annotations

import math
import re

from runtimes import CONVERSIONS, _protobuf

PRODUCTS = ("Conv", "Gemm", "MatMul")
FUSED = "LevitAttention"  # starts the operators of graph/attention.py, each of which has two products
LEAST_KNOWN = 0.5  # share of the MACs whose layers must be known
NODE, INITIALIZER, VALUES = 1, 5, (11, 12, 13)  # of a graph; values: inputs, outputs and what is between them


def int8_share(onnx: str, layers: list[dict] | None) -> float | None:
    """Return the share of a graph's MACs in INT8 layers, 0 to 1, or None where the layers do not tell.

    layers: as `inspect` returns them. A layer computes the nodes whose names are in its own; a node in no layer's name
    counts as not INT8. Of a graph in another format than ONNX nothing is known.
    """
    macs = macs_of(onnx) if layers and onnx.endswith(".onnx") else {}
    precisions = {node: _precision(node, layers) for node in macs}
    total, known = sum(macs.values()), sum(macs[node] for node in macs if precisions[node])
    if not total or known < LEAST_KNOWN * total:
        return None
    return sum(macs[node] for node in macs if precisions[node] == "int8") / total


def _precision(node, layers):
    name = re.compile(rf"(?<![\w.]){re.escape(node)}(_token_\d+)?(?![\w.])")  # a suffix of ONNX Runtime's
    computing = (layer for layer in layers if layer["type"] not in CONVERSIONS and name.search(layer["name"]))
    return next((layer["precision"] for layer in computing), None)


def macs_of(onnx: str) -> dict[str, int]:
    """Return {node: MACs for one image} of an ONNX file's products, without those whose shapes it does not give."""
    with open(onnx, "rb") as stream:
        graph = _fields(_only(memoryview(stream.read()), 7))
    shapes = dict(_tensor(value) for field, value in graph if field == INITIALIZER)
    shapes.update(_value(value) for field, value in graph if field in VALUES)
    nodes = [_node(value) for field, value in graph if field == NODE]
    known = [node for node in nodes if node["op"] in PRODUCTS and {*node["inputs"][:2], node["output"]} <= set(shapes)]
    fused = {node["name"]: _macs_of_fused(**node["sizes"]) for node in nodes if node["op"].startswith(FUSED)}
    return {**{node["name"]: _macs(node, shapes) for node in known}, **fused}


def _macs(node, shapes):
    source, weight = (shapes[name] for name in node["inputs"][:2])
    return math.prod(shapes[node["output"]]) * (math.prod(weight[1:]) if node["op"] == "Conv" else source[-1])


def _macs_of_fused(heads, key_dim, val_dim, queries, keys):
    return heads * queries * keys * (key_dim + val_dim)


def _node(message):
    fields = _fields(message)
    attributes = [dict(_fields(value)) for field, value in fields if field == 5]
    texts = {number: [_text(value) for field, value in fields if field == number] for number in (1, 2, 3, 4)}
    sizes = {_text(one[1]): one[3] for one in attributes if 3 in one}  # those that are integers
    return {"inputs": texts[1], "output": texts[2][0], "name": texts[3][0], "op": texts[4][0], "sizes": sizes}


def _tensor(message):
    fields = _fields(message)
    return _text(dict(fields)[8]), [value for field, value in fields if field == 1]


def _value(message):
    """Return (name, shape for one image) of an input, an output or an activation."""
    sizes = [dict(_fields(one)) for field, one in _fields(_only(message, 2, 1, 2)) if field == 1]
    return _text(_only(message, 1)), [size[1] if 1 in size else _for_one(_text(size.get(2, b""))) for size in sizes]


def _for_one(dimension):
    """Return a symbolic dimension for one image: `batch` is 1, `batch*49` is 49."""
    return int((dimension.split("*") + ["1"])[1])


def _text(value):
    return bytes(value).decode()


def _only(message, *path):
    """Return the value of a field of a field ... of a message; an empty message where it is absent."""
    for number in path:
        message = dict(_fields(message)).get(number, b"")
    return message


def _fields(message):
    return [(number, value) for number, value, _ in _protobuf.fields(message)]
