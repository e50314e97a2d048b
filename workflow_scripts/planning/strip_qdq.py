"""Remove Q/DQ pairs from a graph whose plan has grown. Onnx may not be installed. Python 3.8."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from core.command import log
from graph.names import module_of

PAIR = ("QuantizeLinear", "DequantizeLinear")


def strip(path: str | Path, modules: Collection[str], target: str | Path) -> bool:
    """Write a graph to `target` without the Q/DQ pairs that the nodes of some modules read; return whether it could.

    Nodes are named `{module}/{op}`. Nothing is written where onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        log.info("onnx is not installed here: Q/DQ pairs cannot be removed from the graph")
        return False
    model = onnx.load(str(path))
    writers = {node.output[0]: node for node in model.graph.node if node.op_type in PAIR}
    for node in model.graph.node:
        if module_of(node.name) in modules and node.output[0] not in writers:
            node.input[:] = [_before_pair(name, writers) for name in node.input]
    _drop_unread(model.graph)
    onnx.save(model, str(target))
    return True


def _before_pair(name, writers):
    """Return the input of the Q/DQ pair that writes a tensor, or the tensor itself."""
    dequantize = writers.get(name)
    quantize = writers.get(dequantize.input[0]) if dequantize is not None else None
    return quantize.input[0] if quantize is not None else name


def _drop_unread(graph):
    outputs = {value.name for value in graph.output}
    while True:
        read = outputs | {name for node in graph.node for name in node.input}
        unread = [node for node in graph.node if not read & set(node.output)]
        for node in unread:
            graph.node.remove(node)
        if not unread:
            return
