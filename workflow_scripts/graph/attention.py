"""LeViT's attention as one node, for a TensorRT plugin (plugins/levit_attention).

`LevitAttention` reads the product qkv [B, N, heads * (2 key_dim + val_dim)]. `LevitAttentionDownsample` reads the
products kv [B, N, heads * (key_dim + val_dim)] and q [B, M, heads * key_dim]. The result is
hardswish(softmax(q k^T + bias) v), [B, M, heads * val_dim]; the weights of q include the scale. A node whose operator
ends in `Image` reads and writes images [B, C, height, width] instead of tokens. Attributes: heads, key_dim, val_dim,
queries (M), keys (N), bias [heads, M, N]. The graph also defines each operator as a function of standard operators
(attention_body.py), for runtimes without the plugin.
"""

from typing import NamedTuple

import numpy as np
import onnx_graphsurgeon as gs

from graph import attention_body, qdq, shapes, surgery
from graph.attention_body import DOMAIN, HEADS_FIRST, KEYS_LAST, OPS

DIVISOR = 16  # of key_dim and val_dim: required by the plugin's kernels and channels-last formats


def declare(graph: gs.Graph) -> gs.Graph:
    """Define the functions of the attention nodes that a graph has, and drop those of others, in place."""
    used = sorted({node.op for node in graph.nodes if node.domain == DOMAIN})
    others = [function for function in graph.functions if function.domain != DOMAIN]
    graph.functions = others + [attention_body.function(op) for op in used]
    return graph


def fuse_attention(graph: gs.Graph) -> gs.Graph:
    """Fuse each attention of a LeViT, from its product qkv (or kv and q) to its projection's input, into one node."""
    shapes.annotate(graph)
    for softmax in [n for n in graph.nodes if n.op == "Softmax"]:
        match = _match(softmax)
        if match:
            sources, attributes, last, module = match
            result, op = last.outputs[0], OPS[len(sources) - 1]
            last.outputs.clear()
            name = surgery.free_name(graph, f"{module}/{op}")
            graph.nodes.append(gs.Node(op, name, attributes, sources, [result], domain=DOMAIN))
    return declare(graph.cleanup().toposort())


def _match(softmax):
    """Return (inputs, attributes, last node, module) of the attention around a Softmax, or None."""
    add, product = surgery.producer(softmax.inputs[0], "Add"), surgery.consumer(softmax.outputs[0], "MatMul")
    qk = add and next((n for n in (surgery.producer(t, "MatMul") for t in add.inputs) if n is not None), None)
    bias = add and next((t for t in add.inputs if isinstance(t, gs.Constant)), None)
    last, joined = _end(product)
    if last is None or qk is None or bias is None or softmax.attrs.get("axis", -1) not in (-1, 3):
        return None
    exclusive = surgery.consumer(qk.outputs[0]) is add and surgery.consumer(add.outputs[0]) is softmax
    if not exclusive or product.inputs[0] is not softmax.outputs[0] or len(bias.values.shape) < 3:
        return None
    *others, heads, queries, keys = bias.values.shape
    operands = [_origin(t) for t in (*qk.inputs, product.inputs[1])]
    sources = _sources(operands, heads)
    if sources is None or set(others) - {1} or list(qk.outputs[0].shape[1:]) != [heads, queries, keys]:
        return None
    sizes = {"heads": heads, "key_dim": operands[0].size, "val_dim": operands[2].size, "queries": queries, "keys": keys}
    if list(joined.outputs[0].shape[1:]) != [queries, heads * operands[2].size]:
        return None
    values = np.ascontiguousarray(bias.values.reshape(heads, queries, keys), dtype=np.float32)
    attributes = {**sizes, "bias": gs.Constant(f"{softmax.name}_bias", values)}
    return sources, attributes, last, qdq.module_of(qk).rsplit(".", 1)[0]


def _end(product):
    """Return (node that writes the activation, Reshape before it) after the product with v, or (None, None)."""
    nothing = (None, None)
    swap = surgery.consumer(product.outputs[0], "Transpose") if product is not None else None
    joined = surgery.consumer(swap.outputs[0], "Reshape") if swap is not None else None
    if swap is None or joined is None or list(swap.attrs["perm"]) != HEADS_FIRST or len(joined.outputs[0].shape) != 3:
        return nothing
    readers = joined.outputs[0].outputs
    if [n.op for n in readers] == ["HardSwish"]:
        return readers[0], joined
    gate = next((n for n in readers if n.op == "HardSigmoid"), None)
    scale = next((n for n in readers if n.op == "Mul"), None)
    if gate is None or scale is None or len(readers) != 2 or surgery.consumer(gate.outputs[0]) is not scale:
        return nothing
    return (scale, joined) if surgery.gates_hardswish(gate) else nothing


class _Origin(NamedTuple):
    """An operand: `size` elements of the depth from `start`, of `source` [B, N, C] as [B, N, heads, depth]."""

    source: gs.Tensor
    heads: int
    depth: int
    start: int
    size: int
    perm: list


def _origin(tensor):
    """Return the _Origin of an operand that Transposes and a Split make, or None for any other."""
    perm, cut, start, size = [0, 1, 2, 3], None, 0, None
    while tensor.inputs and tensor.inputs[0].op in ("Transpose", "Split"):
        node = tensor.inputs[0]
        if node.op == "Transpose":
            perm = [node.attrs["perm"][axis] for axis in perm]
            cut = None if cut is None else node.attrs["perm"][cut]
        elif cut is None:
            cut = node.attrs.get("axis", 0) % 4
            index = next(i for i, output in enumerate(node.outputs) if output is tensor)
            start, size = sum(output.shape[cut] for output in node.outputs[:index]), tensor.shape[cut]
        else:
            return None
        tensor = node.inputs[0]
    reshape = surgery.producer(tensor, "Reshape")
    if reshape is None or cut not in (None, 3) or len(reshape.inputs[0].shape) != 3 or len(tensor.shape) != 4:
        return None
    batch, count, heads, depth = tensor.shape
    if list(reshape.inputs[0].shape) != [batch, count, heads * depth]:
        return None
    return _Origin(reshape.inputs[0], heads, depth, start, depth if size is None else size, perm)


def _sources(operands, heads):
    """Return the products that hold q, k and v side by side for each head, or None."""
    if None in operands or {origin.heads for origin in operands} != {heads}:
        return None
    q, k, v = operands
    perms = (q.perm, k.perm, v.perm)
    if perms != (HEADS_FIRST, KEYS_LAST, HEADS_FIRST) or q.size != k.size or k.source is not v.source:
        return None
    first = q.size if q.source is k.source else 0
    placed = (q.start, k.start, v.start) == (0, first, first + k.size) and k.depth == first + k.size + v.size
    if not placed or (first == 0 and q.depth != q.size) or q.size % DIVISOR or v.size % DIVISOR:
        return None
    return [k.source] if first else [k.source, q.source]
