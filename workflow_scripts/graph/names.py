"""Readable node names: the path of the torch module, then the operator, as in `stages.0.blocks.1.attn.qkv/MatMul`.

Plans, calibrated ranges and TensorRT's layer information refer to these names. Standard library only.
"""

from __future__ import annotations

import collections
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def module_of(name: str) -> str:
    """Return the path of the torch module that the node `{module}/{op}` was exported from."""
    return name.rsplit("/", 1)[0]


def tidy(name: str) -> str:
    """Return `stages.0.blocks.1.attn.qkv/MatMul` for the exporter's `/stages/stages.0/blocks/blocks.1/attn/qkv/MatMul`.

    The exporter writes a container and its child as `/blocks/blocks.1`. Other names are returned unchanged.
    """
    if not name.startswith("/"):
        return name
    *scopes, op = name[1:].split("/")
    pairs = zip(scopes, [*scopes[1:], ""])
    modules = [scope for scope, child in pairs if not re.fullmatch(re.escape(scope) + r"\.\d+", child)]
    return "/".join([".".join(modules), op]) if modules else op


def tidy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rename the nodes and inner tensors of an exported model in place; its input and output keep their names."""
    fixed = {value.name for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]}
    uses = collections.Counter()
    for node in model.graph.node:
        name = tidy(node.name)
        node.name = f"{name}_{uses[name]}" if uses[name] else name
        uses[name] += 1
        node.input[:] = [n if n in fixed else tidy(n) for n in node.input]
        node.output[:] = [n if n in fixed else tidy(n) for n in node.output]
    del model.graph.value_info[:]
    return model
