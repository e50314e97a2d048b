"""Read, write and run ONNX graphs: what the graph modules share."""

import math
import os
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, update_import_domains
from onnx_graphsurgeon.logger import G_LOGGER

from core.files import UserError

G_LOGGER.severity = G_LOGGER.ERROR
onnxruntime.set_default_logger_severity(4)  # ONNX Runtime warns about graphs that no pass has cleaned yet

INPUT, OUTPUT = "input_0", "output_0"
FLOAT, IR_VERSION = onnx.TensorProto.FLOAT, 8
SMALL = 1024  # elements of a constant that a shape may depend on


def load(path: str | os.PathLike) -> gs.Graph:
    """Return the graph of an ONNX file; raise UserError if the file is not a valid one."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a valid ONNX graph ({first}): delete it and run again") from None
    return from_model(model)


def from_model(model: onnx.ModelProto) -> gs.Graph:
    """Return the graph of an ONNX model, which is not modified."""
    graph = gs.import_onnx(model)
    graph.import_domains = list(graph.import_domains)  # a copy: passes add the domains of their nodes
    return graph


def save(graph: gs.Graph, path: str | os.PathLike) -> None:
    """Check a graph and write it with its nodes in topological order; equal graphs give equal bytes."""
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    with open(path, "wb") as stream:
        stream.write(model.SerializeToString(deterministic=True))


def to_model(graph: gs.Graph) -> onnx.ModelProto:
    """Return the ONNX model of a graph, in an IR version that TensorRT 8.5 and ONNX Runtime can parse."""
    model = gs.export_onnx(graph.toposort())
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name, model.producer_version = "LeViT-TensorRT", ""
    return model


def skeleton(graph: gs.Graph) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a graph's model without outputs and types, and with its large constants as inputs; and {name: constant}.

    Large are constants of more than SMALL elements: no shape depends on them, and they need no copy.
    """
    unsorted = graph.nodes
    nodes = [OnnxExporter.export_node(node) for node in graph.toposort(mode="nodes", recurse_functions=False).nodes]
    graph.nodes = unsorted
    constants = [tensor for tensor in graph.tensors().values() if isinstance(tensor, gs.Constant)]
    large = [tensor for tensor in constants if math.prod(tensor.shape) > SMALL]
    small = [OnnxExporter.export_tensor_proto(tensor) for tensor in constants if math.prod(tensor.shape) <= SMALL]
    inputs = [OnnxExporter.export_value_info_proto(tensor, False) for tensor in (*graph.inputs, *large)]
    body = onnx.helper.make_graph(nodes, graph.name, inputs, [], small)
    functions = [OnnxExporter.export_function(function) for function in graph.functions]
    imports = update_import_domains(graph)
    model = onnx.helper.make_model(body, functions=functions, opset_imports=imports, ir_version=IR_VERSION)
    return model, {tensor.name: tensor.values for tensor in large}


def runner(model: onnx.ModelProto, threads: int = 0) -> onnxruntime.InferenceSession:
    """Return a CPU session without graph optimizations, the reference for every proof; threads: 0 for all cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leaves others their processors
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observer(graph: gs.Graph, threads: int = 0) -> onnxruntime.InferenceSession:
    """Return a session whose outputs are all tensors that nodes of the graph write."""
    model = to_model(graph.copy())
    outputs = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)  # ONNX Runtime infers their types
    return runner(model, threads)


def activations(
    session: onnxruntime.InferenceSession, images: np.ndarray, weights: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return {tensor name: value} of a session's outputs, its input included.

    images: float32 [N, 3, H, W]; weights: further inputs, as of `skeleton`.
    """
    names = [output.name for output in session.get_outputs()]
    return {INPUT: images, **dict(zip(names, session.run(names, {INPUT: images, **(weights or {})})))}


def magnitudes(graph: gs.Graph, batches: Iterable[np.ndarray], threads: int = 0) -> dict[str, float]:
    """Return {tensor name: largest |x|} of the float32 activations of a graph, its input included.

    batches: float32 [N, 3, H, W] each; N is small, because all activations of a batch are in memory together.
    Raises UserError naming an activation that is not finite.
    """
    session, largest = observer(graph, threads), {}
    for batch in batches:
        for name, value in activations(session, batch).items():
            if value.dtype == np.float32:
                largest[name] = np.maximum(largest.get(name, 0), np.abs(value).max())  # NaN stays NaN
    for name, value in largest.items():
        if not np.isfinite(value):
            raise UserError(f"calibration: {name} reaches {value}; check the checkpoint and the images")
    return {name: float(value) for name, value in largest.items()}


def run(graph: gs.Graph, inputs: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Return one tensor that a node of the graph writes; inputs: {name: value}."""
    model = to_model(graph.copy())
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return runner(onnx.utils.Extractor(model).extract_model(list(inputs), [name])).run(None, inputs)[0]


def random_batch(graph: gs.Graph, batch: int, seed: int = 0) -> np.ndarray:
    """Return standard normal images, float32 [batch, 3, H, W], of the graph's input size."""
    shape = graph.inputs[0].shape[1:]
    return np.random.default_rng(seed).standard_normal((batch, *shape), dtype=np.float32)


def count(graph: gs.Graph) -> int:
    """Return the number of nodes other than Constant."""
    return sum(node.op != "Constant" for node in graph.nodes)
