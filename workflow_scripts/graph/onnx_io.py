"""Reading, writing and running ONNX graphs: the small common ground of the graph modules."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx_graphsurgeon.logger import G_LOGGER

from core.files import UserError

G_LOGGER.severity = G_LOGGER.ERROR
onnxruntime.set_default_logger_severity(4)  # warnings of graphs that a pass has not yet cleaned are no news

INPUT, OUTPUT = "input_0", "output_0"


def load(path):
    """Return the graphsurgeon graph of an ONNX file; raise UserError where it is none."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except Exception as error:
        raise UserError(f"{path} is not a valid ONNX graph ({_first_line(error)}): delete it and run again") from None
    return imported(model)


def imported(model):
    """Return the graphsurgeon graph of an ONNX model, which stays as it is."""
    graph = gs.import_onnx(model)
    graph.import_domains = list(graph.import_domains)  # else the model's own, to which a node's domain is added
    return graph


def save(graph, path):
    """Write a graph, checked, with nodes in topological order; equal graphs give equal bytes."""
    model = to_model(graph)
    onnx.checker.check_model(model, full_check=True)
    with open(path, "wb") as stream:
        stream.write(model.SerializeToString(deterministic=True))


def to_model(graph):
    """Return the ONNX model of a graph, with an IR version that TensorRT 8.5's and ONNX Runtime's parsers read."""
    model = gs.export_onnx(graph.toposort())
    model.ir_version = min(model.ir_version, 8)
    model.producer_name, model.producer_version = "LeViT-TensorRT", ""
    return model


def runner(model, threads=0):
    """Return an ONNX Runtime session on the CPU without graph optimizations: the reference for every proof."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: all cores
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observer(graph, threads=0):
    """Return an ONNX Runtime session that has every tensor that a node of the graph writes as an output."""
    model = to_model(graph.copy())
    known = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in known]
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    model.graph.output.extend(inferred.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    return runner(model, threads)


def random_batch(graph, batch, seed=0):
    """Return standard normal images [batch, 3, H, W] that fit the graph's input."""
    shape = graph.inputs[0].shape[1:]
    return np.random.default_rng(seed).standard_normal((batch, *shape), dtype=np.float32)


def outputs(graph, batch, seed=0):
    """Return the graph's logits for random images."""
    return runner(to_model(graph)).run(None, {INPUT: random_batch(graph, batch, seed)})[0]


def count(graph):
    """Return the number of nodes other than Constant."""
    return sum(node.op != "Constant" for node in graph.nodes)


def _first_line(error):
    return str(error).strip().splitlines()[0]
