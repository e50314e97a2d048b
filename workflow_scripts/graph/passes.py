"""The surgeon's passes: small named functions graph -> graph, listed for each graph variant in config.yaml.

Every pass is exact: `apply` runs each graph that a pass changes and compares the logits. Passes do not move
QuantizeLinear and DequantizeLinear, so they accept quantized graphs as well; but for those of attention_pairs.py, which
change nothing in a graph without pairs.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from core.command import log
from core.files import UserError
from graph import attention, attention_pairs, dla_passes, onnx_io, projections, qdq, shapes, surgery

TOLERANCE = 1e-5  # of the logits after an exact pass, relative to the largest
ELEMENTWISE = {"Add", "Mul", "HardSigmoid", "HardSwish", "Relu", "Sigmoid", "Clip"}


def fold_constants(graph: gs.Graph) -> gs.Graph:
    """Compute what depends on constants alone, such as transposed weights."""
    return graph.fold_constants(fold_shapes=False, size_threshold=None).cleanup()


def fold_shapes(graph: gs.Graph) -> gs.Graph:
    """Replace computed targets of Reshapes by constants, with -1 for the one dimension that depends on the batch."""
    known, _ = shapes.at_batches(graph)
    for node in [n for n in graph.nodes if n.op == "Reshape"]:
        target = shapes.target(shapes.symbolic(known[node.outputs[0].name]))
        if target is not None:
            node.inputs[1] = gs.Constant(f"{node.name}_shape", np.array(target, dtype=np.int64))
    return graph.cleanup()


def drop_noops(graph: gs.Graph) -> gs.Graph:
    """Remove Identity, Dropout, and any Reshape or Transpose that changes nothing."""
    shapes.annotate(graph)
    for node in list(graph.nodes):
        same = node.op in ("Identity", "Dropout")
        same |= node.op == "Reshape" and node.inputs[0].shape == node.outputs[0].shape
        same |= node.op == "Transpose" and list(node.attrs["perm"]) == sorted(node.attrs["perm"])
        if same and not surgery.is_output(graph, node.outputs[0]):
            surgery.bypass(node)
    return graph.cleanup()


def share_initializers(graph: gs.Graph) -> gs.Graph:
    """Make one constant of several equal ones."""
    first = {}
    for _, tensor in sorted(graph.tensors().items()):
        if isinstance(tensor, gs.Constant):
            same = first.setdefault((str(tensor.dtype), tuple(tensor.shape), tensor.values.tobytes()), tensor)
            if same is not tensor:
                surgery.redirect(tensor, same)
    return graph.cleanup()


def merge_reshapes(graph: gs.Graph) -> gs.Graph:
    """Merge consecutive Reshapes, and consecutive Transposes, into one."""
    for node in graph.toposort().nodes:
        before = surgery.producer(node.inputs[0], node.op) if node.op in ("Reshape", "Transpose") else None
        if before is None:
            continue
        if node.op == "Transpose":
            node.attrs["perm"] = [before.attrs["perm"][axis] for axis in node.attrs["perm"]]
        elif shapes.target(node.outputs[0].shape or ["?", "?"]) is None:
            continue
        node.inputs[0] = before.inputs[0]
    return graph.cleanup()


def merge_slices(graph: gs.Graph) -> gs.Graph:
    """Merge consecutive Slices along different axes into one, and clamp the ends of all to their input's size."""
    shapes.annotate(graph)
    for node in [n for n in graph.toposort().nodes if n.op == "Slice"]:
        before = surgery.producer(node.inputs[0], "Slice")
        exclusive = before is not None and surgery.consumer(before.outputs[0]) is node
        if not exclusive or len(node.inputs) != 5 != len(before.inputs):
            continue
        constants = before.inputs[1:] + node.inputs[1:]
        if all(isinstance(t, gs.Constant) for t in constants) and before.inputs[3].values != node.inputs[3].values:
            both = zip(("starts", "ends", "axes", "steps"), before.inputs[1:], node.inputs[1:])
            merged = [gs.Constant(f"{node.name}_{p}", np.concatenate([a.values, b.values])) for p, a, b in both]
            node.inputs = [before.inputs[0], *merged]
    for node in [n for n in graph.nodes if n.op == "Slice"]:
        _end_inside(node)
    return graph.cleanup()


def _end_inside(node):
    """Clamp the ends of a Slice to the size of its input; TensorRT 8 clamps larger INT64 ones with a warning."""
    source, _, ends, *rest = node.inputs
    if not all(isinstance(t, gs.Constant) for t in node.inputs[1:]):
        return
    axes = rest[0].values if rest else range(len(ends.values))
    sizes = [source.shape[axis] for axis in axes]
    inside = [end if isinstance(d, str) else min(max(end, -d - 1), d) for end, d in zip(ends.values.tolist(), sizes)]
    if inside != ends.values.tolist():
        node.inputs[2] = gs.Constant(f"{node.name}_inside", np.array(inside, dtype=np.int64))


def merge_transposes(graph: gs.Graph) -> gs.Graph:
    """Transpose once before a Split instead of after each of its outputs, if that takes fewer Transposes."""
    for split in [n for n in graph.nodes if n.op == "Split"]:
        behind = [surgery.consumer(output, "Transpose") for output in split.outputs]
        if any(node is None for node in behind):
            continue
        perms = [list(node.attrs["perm"]) for node in behind]
        common = max(perms, key=perms.count)
        rest = [[common.index(axis) for axis in perm] for perm in perms]
        if 1 + sum(perm != sorted(perm) for perm in rest) >= len(perms):
            continue
        once = gs.Variable(f"{split.name}_transposed", dtype=np.float32)
        first = gs.Node("Transpose", f"{split.name}_Transpose", {"perm": common}, [split.inputs[0]], [once])
        graph.nodes.append(first)
        split.inputs[0], split.attrs["axis"] = once, common.index(split.attrs["axis"])
        for node, perm in zip(behind, rest):
            node.attrs["perm"] = perm
    return drop_noops(graph.toposort())


def merge_hardswish(graph: gs.Graph) -> gs.Graph:
    """Replace x * HardSigmoid(x) by HardSwish (opset 14), which is one kernel in OpenVINO and ONNX Runtime."""
    for gate in [n for n in graph.nodes if n.op == "HardSigmoid"]:
        product, source = surgery.consumer(gate.outputs[0], "Mul"), gate.inputs[0]
        if product is not None and any(t is source for t in product.inputs) and surgery.gates_hardswish(gate):
            product.op, product.inputs = "HardSwish", [source]
            product.name = product.name.replace("/Mul", "/HardSwish")
    graph.opset, graph.import_domains = max(graph.opset, 14), None
    return graph.cleanup()


def linear_to_gemm(graph: gs.Graph) -> gs.Graph:
    """Replace a linear layer on tokens [B, N, C] by one Gemm on [B*N, C]; tokens stay flat between layers."""
    shapes.annotate(graph)
    for node in [n for n in graph.nodes if n.op == "MatMul"]:
        add, weight = surgery.consumer(node.outputs[0], "Add"), node.inputs[1]
        bias = surgery.added_bias(add)
        if bias is not None and isinstance(weight, gs.Constant) and len(weight.shape) == 2:
            _as_gemm(graph, node, add.outputs[0], bias)
    graph = merge_reshapes(_sink_reshapes(merge_reshapes(graph.cleanup().toposort())))
    return drop_noops(merge_reshapes(_share_reshapes(graph)))  # none is left around skip connections either


def _as_gemm(graph, node, result, bias):
    source, name = node.inputs[0], qdq.module_of(node)
    rows, tokens = shapes.product(source.shape[:-1]), len(source.shape) > 2
    flat = surgery.reshape(graph, source, [rows, source.shape[-1]], f"{name}/Flatten") if tokens else source
    output = surgery.append(graph, "Gemm", f"{name}/Gemm", [flat, node.inputs[1], bias], [rows, result.shape[-1]])
    if tokens:
        output = surgery.reshape(graph, output, result.shape, f"{name}/Unflatten")
    surgery.supersede(graph, result, output)


def gemm_to_matmul(graph: gs.Graph) -> gs.Graph:
    """Replace each Gemm with a constant weight by MatMul and Add on [rows, 1, C], which ONNX Runtime leaves apart.

    Quantized, they become one MatMulIntegerToFloat, while a Gemm with a float bias stays in FP32.
    """
    shapes.annotate(graph)
    for node in [n for n in graph.nodes if n.op == "Gemm" and isinstance(n.inputs[1], gs.Constant)]:
        (source, weight, bias), result, name = node.inputs, node.outputs[0], qdq.module_of(node)
        values = weight.values.T if node.attrs.get("transB", 0) else weight.values
        factor, (rows, columns) = gs.Constant(f"{name}/factor", np.ascontiguousarray(values)), result.shape
        wide = surgery.reshape(graph, source, [rows, 1, source.shape[-1]], f"{name}/Widen")
        product = surgery.append(graph, "MatMul", f"{name}/MatMul", [wide, factor], [rows, 1, columns])
        total = surgery.append(graph, "Add", f"{name}/Add", [product, bias], [rows, 1, columns])
        surgery.supersede(graph, result, surgery.reshape(graph, total, result.shape, f"{name}/Narrow"))
    return graph.cleanup()


def _sink_reshapes(graph):
    """Move Reshapes behind the elementwise nodes that follow them, until none can move."""
    while sum(_sink(graph, node) for node in list(graph.toposort().nodes) if node.op in ELEMENTWISE):
        graph.cleanup()
    return graph.cleanup()


def _sink(graph, node):
    data = [t for t in node.inputs if not isinstance(t, gs.Constant)]
    before = [surgery.producer(t, "Reshape") for t in data]
    first = next((reshape for reshape in before if reshape is not None), None)
    scalars = all(t.values.size == 1 for t in node.inputs if isinstance(t, gs.Constant))
    if first is None or not scalars or surgery.is_output(graph, node.outputs[0]):
        return False
    source, target = first.inputs[0].shape, first.outputs[0].shape
    if not all(_sinks(tensor, reshape, source, target) for tensor, reshape in zip(data, before)):
        return False
    for tensor, reshape in zip(data, before):
        other = reshape is None and surgery.reshape(graph, tensor, source, f"{node.name}_Flatten")
        surgery.reconnect(node, tensor, other or reshape.inputs[0])
    result = node.outputs[0]
    readers, result.shape = list(result.outputs), source
    behind = surgery.reshape(graph, result, target, f"{node.name}_Reshape")
    for reader in readers:  # all but the new Reshape
        surgery.reconnect(reader, result, behind)
    return True


def _sinks(tensor, reshape, source, target):
    """Return whether an input has the Reshape that is to sink, or can get its inverse.

    It gets the inverse only towards the form that linear layers use (fewer dimensions other than 1), so that sinking
    terminates.
    """
    if reshape is not None:
        return reshape.inputs[0].shape == source and reshape.outputs[0].shape == target
    return tensor.shape == target and _flatness(source) < _flatness(target)


def _flatness(shape):
    return sum(d != 1 for d in shape), -len(shape)


def _share_reshapes(graph):
    """Make one Reshape of several that bring a tensor to the same shape."""
    first = {}
    for node in [n for n in graph.toposort().nodes if n.op == "Reshape"]:
        result = node.outputs[0]
        same = first.setdefault((node.inputs[0].name, tuple(result.shape)), result)
        if same is not result:
            surgery.redirect(result, same)
    return graph.cleanup()


def quantize(graph: gs.Graph) -> gs.Graph:
    """Mark where a quantized graph gets its Q/DQ pairs, if that is not behind the last pass; change nothing."""
    return graph


def around_pairs(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the passes that run before and after Q/DQ pairs are inserted."""
    at = list(names).index("quantize") if "quantize" in names else len(names)
    return list(names[:at]), list(names[at + 1 :])


def transform(graph: gs.Graph, names: Sequence[str]) -> gs.Graph:
    """Run the named passes in order without their proof."""
    for name in names:
        graph = PASSES[name](graph).toposort()
    return graph


FOLDING = (fold_constants, fold_shapes, drop_noops, share_initializers)
MERGING = (merge_reshapes, merge_slices, merge_transposes, merge_hardswish)
LAYERS = (linear_to_gemm, gemm_to_matmul, attention.fuse_attention, projections.split_linear, quantize)
PAIRS = (attention_pairs.merge_pairs, attention_pairs.lift_hardswish)
DLA = (dla_passes.linear_to_conv, dla_passes.mean_to_pool, dla_passes.split_to_slices, dla_passes.hardswish_to_clip)
PASSES = {function.__name__: function for function in (*FOLDING, *MERGING, *LAYERS, *PAIRS, *DLA)}


def apply(graph: gs.Graph, names: Sequence[str]) -> gs.Graph:
    """Run the named passes in order; each must preserve the logits of random images at batch 1 and 3.

    Raises UserError naming a pass that is not in PASSES, or that changes a logit by more than TOLERANCE of the largest.
    """
    for name in names:
        if name not in PASSES:
            raise UserError(f"graphs: no pass is called {name!r}; there are: {', '.join(PASSES)}")
    proof = _Proof(graph)
    for name in names:
        before = onnx_io.count(graph)
        graph = PASSES[name](graph).toposort()
        error = proof.error(graph)
        log.info("%-20s %4d -> %4d nodes, logits within %.1e", name, before, onnx_io.count(graph), error)
        if not error <= TOLERANCE:
            limit = f"at most {TOLERANCE:.0e} of the largest"
            raise UserError(f"pass {name} changed the logits by {error:.1e} ({limit}): take it out of `graphs`")
    return graph


class _Proof:
    """The logits of a graph on random images, which those of later graphs are compared with."""

    def __init__(self, graph):
        self.images = [onnx_io.random_batch(graph, batch) for batch in (1, 3)]
        self.digest, run = _runnable(graph)
        self.logits, self.last = run(self.images), 0.0

    def error(self, graph):
        """Return the largest change of a logit, relative to the largest; a graph that was run last is not run again."""
        digest, run = _runnable(graph)
        if digest != self.digest:
            self.digest, self.last = digest, _relative_error(self.logits, run(self.images))
        return self.last


def _runnable(graph):
    """Return a hash of all that decides a graph's logits, and a function (batches of images) -> [logits]."""
    model, weights = onnx_io.skeleton(graph)
    model.graph.output.append(onnx.ValueInfoProto(name=graph.outputs[0].name))
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for values in weights.values():
        digest.update(np.ascontiguousarray(values))

    def run(batches):
        session = onnx_io.runner(model)
        return [session.run(None, {onnx_io.INPUT: images, **weights})[0] for images in batches]

    return digest.hexdigest(), run


def _relative_error(expected, actual):
    if any(a.shape != b.shape for a, b in zip(expected, actual)):
        return float("inf")
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-6)) for a, b in zip(expected, actual))
