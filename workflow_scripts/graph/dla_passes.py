"""The surgeon's passes that make LeViT fit a deep learning accelerator (DLA), listed for its variants in config.yaml.

A DLA runs convolutions, pooling, sums, products and clipped ReLU on [B, C, H, W]. It runs neither products of tokens
with constant matrices nor hard sigmoids, and the older generation moves no data (dla/rules.yaml has the rules with
their sources). Tokens therefore become pixels, as in timm's levit_conv_*: linear layers and the nodes between them
work on images, and only the products of attention stay on tokens. All four passes are exact and do not move Q/DQ
pairs. Nodes keep the names of their modules, to which plans, ranges and caches refer.
"""

import math

import numpy as np
import onnx_graphsurgeon as gs

from graph import attention, attention_body, qdq, shapes, surgery

ELEMENTWISE = ("Add", "Mul", "HardSigmoid", "HardSwish", "Relu", "Clip", *qdq.PAIR)
SWAPPED, HEADS_FIRST = [0, 2, 1], [0, 2, 1, 3]  # tokens [B, N, C] <-> [B, C, N]; [B, N, heads, D] <-> [B, heads, N, D]
MOVED = {0: 0, 1: 3, 2: 1, 3: 2}  # {axis of [B, N, heads, D]: the same axis of [B, heads, D, N]}


def linear_to_conv(graph: gs.Graph) -> gs.Graph:
    """Replace linear layers by 1x1 convolutions on images; one that reads every second token gets a stride of 2.

    Sums and activations between them follow, so that tokens remain only inside attention.
    """
    images = _Images(shapes.annotate(graph))
    for node in list(graph.toposort().nodes):
        images.visit(node)
    images.lower()
    return attention.declare(graph.cleanup().toposort())


class _Images:
    """The images of a graph's tokens: `forms` is {name of a tensor [B, N, C] or [B, C]: tensor [B, C, H, W]}."""

    def __init__(self, graph):
        self.graph, self.forms, self.sides, self.tensors = graph, {}, {}, {}

    def visit(self, node):
        """Make the image of a node's output if its inputs have images, or if images and tokens meet there."""
        handlers = {"MatMul": self.linear, "Gemm": self.gemm, "Reshape": self.reshape, "Transpose": self.transpose}
        handler = self.elementwise if node.op in ELEMENTWISE else handlers.get(node.op)
        handler = self.attention if node.op in attention.OPS else handler
        if handler:
            handler(node)

    def record(self, tensor, image):
        self.forms[tensor.name], self.tensors[tensor.name] = image, tensor
        height, width = image.shape[2:]
        self.sides[height * width] = (height, width)

    def image(self, tensor, name):
        """Return the image of a tensor, made of its tokens if it has none yet."""
        if tensor.name in self.forms:
            return self.forms[tensor.name]
        if len(tensor.shape) == 2:
            return surgery.reshape(self.graph, tensor, [*tensor.shape, 1, 1], f"{name}/Widen")
        batch, count, channels = tensor.shape
        shape = [batch, channels, count]
        swapped = surgery.append(self.graph, "Transpose", f"{name}/Swap", [tensor], shape, {"perm": SWAPPED})
        return surgery.reshape(self.graph, swapped, [batch, channels, *self.sides_of(count)], f"{name}/Widen")

    def sides_of(self, count):
        """Return the height and width for a number of tokens: those of an earlier image, else a square or a column."""
        side = math.isqrt(count)
        return self.sides.get(count, (side, side) if side * side == count else (count, 1))

    # Linear layers

    def linear(self, node):
        """A MatMul with a constant, and the Add of its bias."""
        add, weight = surgery.consumer(node.outputs[0], "Add"), _weight(node.inputs[1])
        bias = surgery.added_bias(add)
        if weight is not None and bias is not None and len(node.outputs[0].shape) == 3:
            self.convolve(node, add.outputs[0], bias, _kernel(self.graph, node, weight, 1))

    def gemm(self, node):
        """A Gemm with a constant, without scaling."""
        weight, plain = _weight(node.inputs[1]), all(node.attrs.get(key, 1) == 1 for key in ("alpha", "beta"))
        if weight is not None and plain and len(node.inputs) == 3 and not node.attrs.get("transA"):
            axis = 0 if node.attrs.get("transB") else 1
            self.convolve(node, node.outputs[0], node.inputs[2], _kernel(self.graph, node, weight, axis))

    def convolve(self, node, result, bias, kernel):
        """Add the convolution that computes the tokens `result` as an image."""
        name = qdq.module_of(node)
        tokens, stride = _subsampled(node.inputs[0])
        image = self.forms.get(tokens.name)
        if image is None or stride is None:
            image, stride = self.image(node.inputs[0], name), 1
        height, width = (-(-side // stride) for side in image.shape[2:])
        attrs = {"kernel_shape": [1, 1], "strides": [stride, stride]}
        shape = [image.shape[0], result.shape[-1], height, width]
        self.record(result, surgery.append(self.graph, "Conv", f"{name}/Conv", [image, kernel, bias], shape, attrs))

    # Nodes between them

    def elementwise(self, node):
        """An elementwise node of images and scalars: the same on images."""
        result, data = node.outputs[0], [t for t in node.inputs if not isinstance(t, gs.Constant)]
        scalars = all(t.values.size == 1 for t in node.inputs if isinstance(t, gs.Constant))
        same = all(list(t.shape) == list(result.shape) for t in data)
        if result.name in self.forms or not (scalars and same and any(t.name in self.forms for t in data)):
            return
        images = {t.name: self.image(t, node.name) for t in data}
        inputs = [images.get(t.name, t) for t in node.inputs]
        image = self.renew(node, node.op, inputs, images[data[0].name].shape, dict(node.attrs))
        image.dtype = result.dtype
        self.record(result, image)

    def attention(self, node):
        """Attention as one node: the same on images, which with channels last have the bytes of tokens."""
        images = [self.image(t, node.name) for t in node.inputs]
        sides, channels = images[-1].shape[2:], node.outputs[0].shape[-1]
        shape = [images[0].shape[0], channels, *sides]
        image = self.renew(node, node.op + attention_body.IMAGE, images, shape, dict(node.attrs))
        image.inputs[0].domain = node.domain
        self.record(node.outputs[0], image)

    def renew(self, node, op, inputs, shape, attrs):
        """Add a node under another's name and return its output; cleanup removes the other if nothing reads it."""
        name, node.name = node.name, f"{node.name}_tokens"
        return surgery.append(self.graph, op, name, inputs, shape, attrs)

    def transpose(self, node):
        """Tokens made of an image: Reshape to [B, C, N], Transpose to [B, N, C]."""
        flat = surgery.producer(node.inputs[0], "Reshape")
        if flat is not None and list(node.attrs["perm"]) == SWAPPED and _flattens(flat):
            self.record(node.outputs[0], flat.inputs[0])

    def reshape(self, node):
        """A Reshape that joins or splits the heads of attention."""
        source, shape = node.inputs[0], node.outputs[0].shape
        joined = surgery.producer(source, "Transpose")
        if joined is not None and list(joined.attrs["perm"]) == HEADS_FIRST and len(shape) == 3:
            self.join(node, joined)
        elif source.name in self.forms and len(shape) == 4 and shape[1] == source.shape[1]:
            self.split(node)

    def join(self, node, transpose):
        """Join the outputs of heads, [B, heads, N, D], into one image of heads * D channels."""
        heads, (batch, count, channels) = transpose.inputs[0], node.outputs[0].shape
        if list(transpose.outputs[0].shape[1:2]) != [count]:
            return
        shape = [heads.shape[i] for i in (0, 1, 3, 2)]
        swapped = self.renew(transpose, "Transpose", [heads], shape, {"perm": [0, 1, 3, 2]})
        name, node.name = node.name, f"{node.name}_tokens"
        image = surgery.reshape(self.graph, swapped, [batch, channels, *self.sides_of(count)], name)
        self.record(node.outputs[0], image)

    def split(self, node):
        """Split an image into heads [B, heads, D, N]; the Transposes that read [B, N, heads, D] are adapted."""
        result = node.outputs[0]
        readers, cuts = list(result.outputs), [n for n in result.outputs if n.op == "Split"]
        behind = [reader for cut in cuts for part in cut.outputs for reader in part.outputs]
        transposes = [n for n in readers if n not in cuts] + behind
        if not all(n.op == "Transpose" and len(n.attrs["perm"]) == 4 for n in transposes):
            return
        batch, count, heads, depth = result.shape
        name, node.name = node.name, f"{node.name}_tokens"
        image = surgery.reshape(self.graph, self.forms[node.inputs[0].name], [batch, heads, depth, count], name)
        for reader in readers:
            surgery.reconnect(reader, result, image)
        for cut in cuts:
            cut.attrs["axis"] = MOVED[cut.attrs["axis"] % 4]
            for part in cut.outputs:
                part.shape = [part.shape[axis] for axis in (0, 2, 3, 1)]
        for transpose in transposes:
            perm = transpose.attrs["perm"] = [MOVED[axis] for axis in transpose.attrs["perm"]]
            if perm == sorted(perm) and not surgery.is_output(self.graph, transpose.outputs[0]):
                surgery.bypass(transpose)

    # Back to tokens

    def lower(self):
        """Make tokens of images for the nodes that still read tokens."""
        for name, image in self.forms.items():
            tensor = self.tensors[name]
            written = tensor.inputs[0] if tensor.inputs else None
            if written is None or (written.op == "Transpose" and surgery.producer(written.inputs[0], "Reshape")):
                continue  # tokens that the network itself makes
            surgery.supersede(self.graph, tensor, self.tokens(image, tensor.shape, name))

    def tokens(self, image, shape, name):
        if len(shape) == 2:
            return surgery.reshape(self.graph, image, shape, f"{name}/Narrow")
        batch, count, channels = shape
        flat = surgery.reshape(self.graph, image, [batch, channels, count], f"{name}/Narrow")
        return surgery.append(self.graph, "Transpose", f"{name}/Swap", [flat], shape, {"perm": SWAPPED})


def _weight(tensor):
    """Return the constant matrix that a tensor is, directly or behind a Q/DQ pair of its own, or None."""
    while tensor.inputs and tensor.inputs[0].op in qdq.PAIR and len(tensor.outputs) == 1:
        tensor = tensor.inputs[0].inputs[0]
    return tensor if isinstance(tensor, gs.Constant) and len(tensor.shape) == 2 else None


def _kernel(graph, node, weight, axis):
    """Return the kernel [C', C, 1, 1] of a weight with its output channels on `axis`; its pair's axis becomes 0."""
    values = weight.values if axis == 0 else weight.values.T
    kernel = gs.Constant(f"{node.name}_kernel", np.ascontiguousarray(values[:, :, None, None]))
    read = node.inputs[1]
    if read is weight:
        return kernel
    dequantize = read.inputs[0]
    quantize = dequantize.inputs[0].inputs[0]
    quantize.inputs[0] = kernel
    for pair in (quantize, dequantize):
        if "axis" in pair.attrs:
            pair.attrs["axis"] = 0
        pair.outputs[0].shape = list(kernel.shape)
    return read


def _flattens(reshape):
    """Return whether a Reshape flattens an image [B, C, H, W] to [B, C, N]."""
    source, result = reshape.inputs[0].shape, reshape.outputs[0].shape
    return len(source) == 4 and len(result) == 3 and source[:2] == result[:2]


def _subsampled(tensor):
    """Return (tokens, stride) if a tensor is every stride-th token in both directions, else (the tensor, 1)."""
    flat = surgery.producer(tensor, "Reshape")
    cut = surgery.producer(flat.inputs[0], "Slice") if flat is not None else None
    wide = surgery.producer(cut.inputs[0], "Reshape") if cut is not None else None
    if cut is None or wide is None or len(wide.inputs[0].shape) != 3 or len(cut.inputs) != 5:
        return tensor, 1
    starts, _, axes, steps = (t.values.tolist() for t in cut.inputs[1:])
    whole = [cut.outputs[0].shape[a] == -(-cut.inputs[0].shape[a] // steps[0]) for a in (1, 2)]
    fits = axes == [1, 2] and starts == [0, 0] and steps[0] == steps[1] > 0 and all(whole)
    return (wide.inputs[0], steps[0]) if fits else (tensor, 1)


def mean_to_pool(graph: gs.Graph) -> gs.Graph:
    """Replace the mean over all tokens of an image by average pooling; what follows stays on [B, C, 1, 1]."""
    shapes.annotate(graph)
    for mean in [n for n in graph.nodes if n.op == "ReduceMean"]:
        swap = surgery.producer(mean.inputs[0], "Transpose")
        flat = surgery.producer(swap.inputs[0], "Reshape") if swap is not None else None
        whole = list(mean.attrs.get("axes", [])) == [1] and not mean.attrs.get("keepdims", 1)
        if flat is None or not whole or list(swap.attrs["perm"]) != SWAPPED or not _flattens(flat):
            continue
        image, result = flat.inputs[0], mean.outputs[0]
        batch, channels, *sides = image.shape
        shape, attrs = [batch, channels, 1, 1], {"kernel_shape": sides}
        pooled = surgery.append(graph, "AveragePool", "pool/AveragePool", [image], shape, attrs)
        narrow = surgery.reshape(graph, pooled, [batch, channels], mean.name)
        for reader in list(result.outputs):
            if reader.op == "Reshape" and list(reader.outputs[0].shape) == list(pooled.shape):
                reader.inputs[0] = pooled
                surgery.bypass(reader)
        surgery.redirect(result, narrow)
        mean.outputs.clear()
    return graph.cleanup().toposort()


def split_to_slices(graph: gs.Graph) -> gs.Graph:
    """Replace a Split by one Slice for each of its outputs; a DLA has rules for Slice."""
    shapes.annotate(graph)
    for split in [n for n in graph.nodes if n.op == "Split"]:
        source, axis, start = split.inputs[0], split.attrs.get("axis", 0), 0
        axis %= len(source.shape)
        if isinstance(source.shape[axis], str):
            continue
        for number, part in enumerate(list(split.outputs)):
            end = start + part.shape[axis]
            bounds = {"start": start, "end": end, "axis": axis, "step": 1}
            constants = [gs.Constant(f"{split.name}_{number}_{k}", np.array([v])) for k, v in bounds.items()]
            name = surgery.free_name(graph, f"{qdq.module_of(split)}/Slice_{number}")
            part.inputs.clear()
            graph.nodes.append(gs.Node("Slice", name, {}, [source, *constants], [part]))
            start = end
    return graph.cleanup().toposort()


def hardswish_to_clip(graph: gs.Graph) -> gs.Graph:
    """Replace HardSigmoid by min(max(x + 3, 0), 6) / 6, and HardSwish by x times that.

    Adding and multiplying by a scalar are scale layers, and Clip from 0 to 6 is a clipped ReLU: a DLA has them all.
    """
    for node in [n for n in graph.nodes if n.op in ("HardSigmoid", "HardSwish")]:
        whole, name = node.op == "HardSwish", qdq.module_of(node)
        alpha = 1 / 6 if whole else node.attrs.get("alpha", 0.2)
        beta = 0.5 if whole else node.attrs.get("beta", 0.5)
        inputs = _clipped(graph, node, name, alpha, beta)
        if whole:
            source = node.inputs[0]
            inputs = [source, surgery.append(graph, "Mul", f"{name}/Scale", inputs, source.shape or [])]
        node.op, node.attrs, node.inputs = "Mul", {}, inputs
        node.name = surgery.free_name(graph, f"{name}/{'Mul' if whole else 'Scale'}")
    return graph.cleanup().toposort()


def _clipped(graph, node, name, alpha, beta):
    """Return [min(max(x + beta / alpha, 0), 1 / alpha), alpha], whose product is the node's hard sigmoid."""
    source, shape = node.inputs[0], node.inputs[0].shape or []
    moved = surgery.append(graph, "Add", f"{name}/Shift", [source, _scalar(node, "shift", beta / alpha)], shape)
    bounds = [_scalar(node, "zero", 0), _scalar(node, "top", 1 / alpha)]
    return [surgery.append(graph, "Clip", f"{name}/Clip", [moved, *bounds], shape), _scalar(node, "scale", alpha)]


def _scalar(node, name, value):
    """Return a constant; the exporter's 1/6 is rounded to float32, and its inverse is rounded back to 6."""
    near = round(value)
    return gs.Constant(f"{node.name}_{name}", np.array(near if abs(value - near) < 1e-5 else value, dtype=np.float32))
