"""Readable names: a node is called after the torch module it was exported from, `stages.0.blocks.1.attn.qkv/MatMul`.

Plans, calibrated ranges and inspector output all refer to these names.
"""

import re


def tidy(name):
    """Return `stages.0.blocks.1.attn.qkv/MatMul` for the exporter's `/stages/stages.0/blocks/blocks.1/attn/qkv/MatMul`.

    The exporter writes a container and its child as `/blocks/blocks.1`; other names stay as they are.
    """
    if not name.startswith("/"):
        return name
    *scopes, op = name[1:].split("/")
    kept = [
        s for s, following in zip(scopes, scopes[1:] + [""]) if not re.fullmatch(re.escape(s) + r"\.\d+", following)
    ]
    return "/".join([".".join(kept), op]) if kept else op


def tidy_model(model):
    """Rename every node and inner tensor of an exported ONNX model; the input and output keep their names."""
    fixed = {value.name for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]}
    taken = {}
    for node in model.graph.node:
        node.name = _unique(tidy(node.name), taken)
        node.input[:] = [n if n in fixed else tidy(n) for n in node.input]
        node.output[:] = [n if n in fixed else tidy(n) for n in node.output]
    del model.graph.value_info[:]
    return model


def _unique(name, taken):
    taken[name] = taken.get(name, -1) + 1
    return f"{name}_{taken[name]}" if taken[name] else name
