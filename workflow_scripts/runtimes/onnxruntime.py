"""ONNX Runtime on the CPU.

The engine is a container (runtimes/_container.py) with the graph as ONNX Runtime optimized it for this processor; it
is loaded with the optimizer off. A plain .onnx file loads too, with the default optimizations.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

import numpy as np

from core import spinning
from core.files import UserError
from devices import probe
from runtimes import _container, _cpu, check_recipe, description, import_library, missing_precisions

NAME = "onnxruntime"
REMEDY = "install onnxruntime with this Python, as envs/ pins it"
COMPUTES = ("fp32", "int8")  # int8 through the graph's Q/DQ
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8": "int8", "uint8": "int8"}
NARROW = ("int8", "bf16", "fp16", "fp32")  # a node's precision is the first of these among its inputs
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}  # as precise as the wide side
VNNI = {"avx_vnni", "avx512_vnni"}  # exact sums of UINT8 by INT8; without, those of x86 overflow in INT16
PART = "model.onnx"


def fingerprint() -> dict:
    """Return the identity of ONNX Runtime and the CPU it runs on."""
    library = import_library("onnxruntime", REMEDY)
    return {**probe.facts(NAME), "build": library.get_build_info()}


def build(onnx: str, recipe: dict, plan: dict | None, engine: str) -> dict:
    """Optimize a graph (clean or with Q/DQ) for this processor; the recipe is {compute, high_precision?, batches}.

    Raises UserError for a precision that ONNX Runtime does not have on a CPU and for a graph that it cannot read.
    """
    check_recipe(NAME, recipe, COMPUTES, plan)
    start, here = time.monotonic(), fingerprint()
    with tempfile.TemporaryDirectory() as folder:
        optimized = os.path.join(folder, PART)
        _session(onnx, onnx, 1, True, optimized_model_filepath=optimized)
        with open(optimized, "rb") as stream:
            parts = {PART: stream.read()}
    seconds = time.monotonic() - start
    _container.write(engine, {key: here[key] for key in ("runtime",) + _container.BOUND}, parts)
    layers = inspect(engine)
    return description(here, layers, seconds, missing_precisions(recipe, layers), batches=None)


def load(engine: str, threads: int = 0) -> OnnxRuntimeSession:
    """Return a session of an engine or a plain .onnx; raise UserError where it is damaged or of another machine."""
    return OnnxRuntimeSession(engine, threads)


def inspect(engine: str) -> list[dict]:
    """Return the nodes that a query executes, from ONNX Runtime's own profile of one query."""
    return [{k: layer[k] for k in ("name", "type", "precision")} for layer in _executed(engine, 1, 0)]


def profile(engine: str, batch: int, threads: int = 0, queries: int = 20) -> list[dict]:
    """Return the executed nodes with the milliseconds of each: means over some queries of a batch, after a first."""
    return _executed(engine, batch, queries, threads)


def _source(path):
    """Return (bytes or path of the model, whether to optimize it)."""
    if _container.is_container(path):
        _, parts = _container.read(path, probe.facts(NAME))
        return parts[PART], False
    return str(path), True


def _session(path, source, threads, optimize, **options):
    library = import_library("onnxruntime", REMEDY)
    settings, level = library.SessionOptions(), library.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.x64quantprecision", "0" if VNNI & set(probe.facts(NAME)["isa"]) else "1")
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0" if spinning.reduced() else "1")
    for name, value in options.items():
        setattr(settings, name, value)
    try:
        return library.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public base
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"{path}: ONNX Runtime cannot load it ({reason}): delete it and run again") from None


def _executed(path, batch, queries, threads=0):
    source, optimize = _source(path)
    with tempfile.TemporaryDirectory() as folder:
        options = {"enable_profiling": True, "profile_file_prefix": os.path.join(folder, "profile")}
        session = _session(path, source, _cpu.threads_of(threads), optimize, **options)
        entry = session.get_inputs()[0]
        images = np.zeros([batch] + entry.shape[1:], _dtype(entry))
        for _ in range(1 + queries):
            session.run(None, {entry.name: images})
        with open(session.end_profiling(), encoding="utf-8") as stream:
            return _layers(json.load(stream), queries)


def _layers(events, queries):
    """Return one layer per node of a profile's events, in order of execution, times averaged over all but the first."""
    layers: dict[int, dict] = {}
    suffix = "_kernel_time"
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            arguments = event["args"]
            if arguments["node_index"] in layers:
                layers[arguments["node_index"]]["ms"] += event["dur"] / 1000 / queries
            else:
                layers[arguments["node_index"]] = _layer(event["name"][: -len(suffix)], arguments)
    return list(layers.values())


def _layer(name, arguments):
    types = [kind for entry in arguments["input_type_shape"] for kind in entry]
    if arguments["op_name"] in CONVERSIONS:
        types = [kind for kind in types if kind.startswith(("float", "bfloat"))] or types
    known = {PRECISIONS[kind] for kind in types if kind in PRECISIONS}
    precision = next((name for name in NARROW if name in known), types[0] if types else "none")
    return {"name": name, "type": arguments["op_name"], "precision": precision, "ms": 0.0}


class OnnxRuntimeSession(_cpu.CpuSession):
    """One inference session that takes any batch."""

    def __init__(self, path: str, threads: int):
        self.name, count = str(path), _cpu.threads_of(threads)
        source, optimize = _source(path)
        self._session = _session(path, source, count, optimize)
        self.inputs = {entry.name: _shape(entry) for entry in self._session.get_inputs()}
        self.outputs = {entry.name: _shape(entry) for entry in self._session.get_outputs()}
        self.dtype = _dtype(self._session.get_inputs()[0])
        self.facts = {"threads": count, "cuda_graph": None}

    def query(self, images: np.ndarray) -> tuple[Any, Any]:  # noqa: D102
        binding = self._session.io_binding()
        binding.bind_cpu_input(next(iter(self.inputs)), images)
        binding.bind_output(next(iter(self.outputs)), "cpu")
        return lambda: self._session.run_with_iobinding(binding), lambda: binding.copy_outputs_to_cpu()[0]


def _shape(entry):
    return [size if isinstance(size, int) else -1 for size in entry.shape]


def _dtype(entry):
    return np.uint8 if entry.type == "tensor(uint8)" else np.float32
