"""Small ONNX graphs with the kinds of layer that LeViT has, for tests of runtimes: made with onnx alone, in no time."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES, WIDTH = 16, 10, 16
QUANTIZED = ("Conv", "MatMul")


def _weights(seed):
    random = np.random.default_rng(seed)
    shapes = {"w_conv": (WIDTH, 3, 3, 3), "w_qkv": (WIDTH, 3 * WIDTH), "w_head": (WIDTH, CLASSES)}
    values = {name: random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) + 1) for name, shape in shapes.items()}
    return {**values, "b_conv": random.standard_normal(WIDTH), "b_head": random.standard_normal(CLASSES)}


def _node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], name=f"/{output}", **attributes)


def _nodes():
    return _common([_node("HardSwish", ["conv"], "act")])


def older_nodes():
    """Return the nodes for a parser without HardSwish (TensorRT 8)."""
    return _common(
        [_node("HardSigmoid", ["conv"], "gate", alpha=1 / 6, beta=0.5), _node("Mul", ["conv", "gate"], "act")]
    )


def gemm_nodes():
    """Return the older nodes with the head as one Gemm, which TensorRT's parser takes apart."""
    *others, _, _ = older_nodes()
    return [*others, _node("Gemm", ["pooled", "w_head", "b_head"], "output_0")]


def _common(activation):
    return [
        _node("Conv", ["input_0", "w_conv", "b_conv"], "conv", kernel_shape=[3, 3], strides=[4, 4], pads=[1, 1, 1, 1]),
        *activation,
        _node("Reshape", ["act", "tokens"], "flat"),
        _node("Transpose", ["flat"], "sequence", perm=[0, 2, 1]),
        _node("MatMul", ["sequence", "w_qkv"], "qkv"),
        helper.make_node("Split", ["qkv", "thirds"], ["q", "k", "v"], name="/split", axis=2),
        _node("Transpose", ["k"], "k_t", perm=[0, 2, 1]),
        _node("MatMul", ["q", "k_t"], "scores"),
        _node("Softmax", ["scores"], "attention", axis=-1),
        _node("MatMul", ["attention", "v"], "mixed"),
        _node("Add", ["sequence", "mixed"], "skip"),
        _node("ReduceMean", ["skip"], "pooled", axes=[1], keepdims=0),
        _node("MatMul", ["pooled", "w_head"], "logits"),
        _node("Add", ["logits", "b_head"], "output_0"),
    ]


def network(path, batch="batch", seed=0, nodes=None):
    """Write a network of FP32: input_0 [batch, 3, 16, 16] to output_0 [batch, 10]. Return the path as text."""
    floats = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in _weights(seed).items()]
    shapes = {"tokens": [0 if batch == "batch" else batch, WIDTH, SIZE], "thirds": [WIDTH] * 3}
    integers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()]
    return _save(path, nodes or _nodes(), floats + integers, batch)


def _save(path, nodes, initializers, batch):
    source = helper.make_tensor_value_info("input_0", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])
    target = helper.make_tensor_value_info("output_0", TensorProto.FLOAT, [batch, CLASSES])
    graph = helper.make_graph(nodes, "network", [source], [target], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def quantized(path, seed=0, nodes=None):
    """Write the network with explicit Q/DQ: per tensor on activations, per channel on weights, biases float."""
    weights, placed, more = _weights(seed), [], []
    for node in nodes or _nodes():
        if node.op_type in QUANTIZED:
            for position in (0, 1):
                node.input[position] = _qdq(node, position, weights, placed, more)
        placed.append(node)
    floats = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    shapes = {"tokens": [0, WIDTH, SIZE], "thirds": [WIDTH] * 3}
    integers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in shapes.items()]
    return _save(path, placed, floats + integers + more, "batch")


def _qdq(node, position, weights, nodes, initializers):
    """Put a pair before a node's input and return the name of what it gives."""
    source, name = node.input[position], f"{node.output[0]}.{position}"
    axis, scale = None, np.float32(6 / 127)
    if source in weights:
        axis = 0 if node.op_type == "Conv" else 1
        others = tuple(a for a in range(weights[source].ndim) if a != axis)
        scale = (np.abs(weights[source]).max(axis=others) / 127).astype(np.float32)
    pair = [(scale, f"{name}.scale"), (np.zeros(np.shape(scale), np.int8), f"{name}.zero")]
    initializers.extend(numpy_helper.from_array(np.asarray(value), label) for value, label in pair)
    options = {} if axis is None else {"axis": axis}
    labels = [label for _, label in pair]
    nodes.append(helper.make_node("QuantizeLinear", [source] + labels, [f"{name}.q"], name=f"/{name}.q", **options))
    nodes.append(
        helper.make_node("DequantizeLinear", [f"{name}.q"] + labels, [f"{name}.dq"], name=f"/{name}.dq", **options)
    )
    return f"{name}.dq"


def halved(source, path):
    """Write a network with every float of FP16 between a Cast at its input and one at its output."""
    model = onnx.load(source)
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in graph.node:
        node.input[:] = ["input_16" if name == "input_0" else name for name in node.input]
        node.output[:] = ["output_16" if name == "output_0" else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", ["input_0"], ["input_16"], name="/to", to=TensorProto.FLOAT16))
    graph.node.append(helper.make_node("Cast", ["output_16"], ["output_0"], name="/from", to=TensorProto.FLOAT))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def images(count, seed=1):
    """Return float32 [count, 3, 16, 16] of normal noise."""
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def expected(batch, seed=0):
    """Return what the FP32 network computes, in numpy: independent of every runtime."""
    w = {name: value.astype(np.float32).astype(np.float64) for name, value in _weights(seed).items()}
    padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::4, ::4]
    conv = np.einsum("ncyxij,ocij->noyx", patches, w["w_conv"]) + w["b_conv"][:, None, None]
    active = conv * np.clip(conv / 6 + 0.5, 0, 1)
    sequence = active.reshape(len(batch), WIDTH, -1).transpose(0, 2, 1)
    q, k, v = np.split(sequence @ w["w_qkv"], 3, axis=2)
    scores = np.exp(q @ k.transpose(0, 2, 1))
    skip = sequence + (scores / scores.sum(axis=2, keepdims=True)) @ v
    return skip.mean(axis=1) @ w["w_head"] + w["b_head"]
