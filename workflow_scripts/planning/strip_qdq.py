"""Q/DQ pairs taken out of a graph again, for a plan that grew after the graph was made; onnx may not be installed."""

from core.command import log

PAIR = ("QuantizeLinear", "DequantizeLinear")


def without(path, modules, target):
    """Write a graph to `target` in which the nodes of some modules read no Q/DQ pair; return whether it was written.

    Nodes are named `{module}/{op}`. It is not written where onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        log.info("onnx is not installed here: Q/DQ pairs cannot be taken out of the graph")
        return False
    model = onnx.load(str(path))
    source = {node.output[0]: node for node in model.graph.node if node.op_type in PAIR}
    for node in model.graph.node:
        if node.name.rsplit("/", 1)[0] in modules and node.output[0] not in source:
            node.input[:] = [_before_pair(name, source) for name in node.input]
    _drop_unread(model.graph)
    onnx.save(model, str(target))
    return True


def _before_pair(name, source):
    """Return what a Q/DQ pair reads, for the name of what it writes; any other name as it is."""
    dequantize = source.get(name)
    quantize = source.get(dequantize.input[0]) if dequantize is not None else None
    return quantize.input[0] if quantize is not None else name


def _drop_unread(graph):
    """Remove the nodes that nothing reads, until there are none."""
    wanted = {value.name for value in graph.output}
    while True:
        read = wanted | {name for node in graph.node for name in node.input}
        unread = [node for node in graph.node if not read & set(node.output)]
        for node in unread:
            graph.node.remove(node)
        if not unread:
            return
