"""OpenVINO on the CPU.

The engine is a container (runtimes/_container.py) with one compiled blob per batch size, each of static shape: static
shapes are 3 to 5 % faster at batch 1 than a dynamic one. Importing a blob generates the machine code again, so it needs
the hints with which the model was compiled.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from core import spinning
from core.files import UserError
from devices import probe
from runtimes import _container, _cpu, check_recipe, description, import_library, missing_precisions

NAME = "openvino"
REMEDY = "install openvino with this Python, as envs/ pins it"
HINTS = {"fp32": "f32", "bf16": "bf16"}  # the precision of layers that are not quantized; Q/DQ decides the others
PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
NOT_LAYERS = ("Const", "Input", "Output")


def fingerprint() -> dict:
    """Return the identity of OpenVINO and the CPU it runs on."""
    core = import_library("openvino", REMEDY).Core()
    capabilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    build = core.get_versions("CPU")["CPU"].build_number
    return {**probe.facts(NAME), "build": build, "capabilities": capabilities}


def build(onnx: str, recipe: dict, plan: dict | None, engine: str) -> dict:
    """Compile a graph (clean or with Q/DQ) for each batch of the recipe: {compute, high_precision?, batches, threads?}.

    A processor without BF16 computes in FP32, with a warning: OpenVINO would emulate BF16, slowly and silently.
    Raises UserError for a precision that the CPU plug-in lacks and for a graph that it cannot read or reshape.
    """
    compute = recipe.get("high_precision") or recipe["compute"]  # INT8 is in the graph
    check_recipe(NAME, {"compute": compute}, sorted(HINTS), plan)
    here, start, batches = fingerprint(), time.monotonic(), sorted(set(recipe["batches"]))
    hint = HINTS[compute if compute.upper() in here["capabilities"] else "fp32"]
    threads = _cpu.threads_of(recipe.get("threads", 0))
    parts = {f"batch{batch}.blob": _compile(onnx, batch, hint, threads) for batch in batches}
    seconds = time.monotonic() - start
    header = {**{key: here[key] for key in ("runtime",) + _container.BOUND}, "hint": hint}
    _container.write(engine, {**header, "batches": batches}, parts)
    layers = inspect(engine)
    return description(here, layers, seconds, missing_precisions(recipe, layers), batches=batches)


def load(engine: str, threads: int = 0) -> OpenVinoSession:
    """Return a session of an engine file; raise UserError where it is damaged or of another version or processor."""
    return OpenVinoSession(engine, threads)


def inspect(engine: str) -> list[dict]:
    """Return the layers that a query executes, read from the compiled model's runtime graph after one query."""
    return [{k: layer[k] for k in ("name", "type", "precision", "kernel")} for layer in _executed(engine, None, 0)]


def profile(engine: str, batch: int, threads: int = 0, queries: int = 20) -> list[dict]:
    """Return the executed layers with the milliseconds of each, averaged over some queries of a batch.

    OpenVINO counts whole microseconds. A first query, which initializes the model, is not part of the average.
    """
    return _executed(engine, batch, queries, threads)


def _properties(hint, threads):
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }


def _compile(onnx, batch, hint, threads):
    core = import_library("openvino", REMEDY).Core()
    try:
        model = core.read_model(onnx)
        source = model.input(0)
        model.reshape({source: [batch] + [size.get_length() for size in list(source.partial_shape)[1:]]})
        compiled = core.compile_model(model, "CPU", _properties(hint, threads))
        output = compiled.output(0).partial_shape
    except RuntimeError as error:
        raise UserError(f"{onnx}: OpenVINO cannot compile it at batch {batch}: {_reason(error)}") from None
    if output.is_dynamic or output[0].get_length() != batch:
        raise UserError(f"{onnx}: its output is {output} at batch {batch}: export it with a dynamic batch")
    blob = compiled.export_model()
    return blob.getvalue() if hasattr(blob, "getvalue") else bytes(blob)


def _import(path, header, parts, batch, threads, **extra):
    core = import_library("openvino", REMEDY).Core()
    if spinning.reduced():  # it has no switch; a thread that is not bound to a busy processor waits for less time
        extra["ENABLE_CPU_PINNING"] = False
    try:
        blob = parts[f"batch{batch}.blob"]
        return core.import_model(blob, "CPU", {**_properties(header["hint"], threads), **extra})
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: OpenVINO cannot load its batch {batch} ({_reason(error)}): delete it") from None


def _reason(error):
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(telling or lines)[:400]


def _executed(path, batch, queries, threads=0):
    header, parts = _container.read(path, probe.facts(NAME))
    batch = batch or header["batches"][0]
    model = _import(path, header, parts, batch, _cpu.threads_of(threads), PERF_COUNT=True)
    request, images = model.create_infer_request(), np.zeros(list(model.input(0).shape), _dtype(model))
    request.infer([images])
    first = _executed_layers(model)
    if not queries:
        return first
    for _ in range(queries):
        request.infer([images])
    means = {layer["name"]: layer["ms"] for layer in _executed_layers(model)}  # of all queries, the first included
    total = {layer["name"]: (queries + 1) * means.get(layer["name"], 0.0) for layer in first}
    return [{**layer, "ms": max(total[layer["name"]] - layer["ms"], 0.0) / queries} for layer in first]


def _executed_layers(model):
    """Return the layers that a compiled model executed, with mean times over its queries until now."""
    layers: list[dict] = []
    constant: set[str] = set()
    for node in model.get_runtime_model().get_ordered_ops():
        layer, sources = _layer(node), [value.get_node().get_friendly_name() for value in node.input_values()]
        if layer["type"] == "Const" or (sources and constant.issuperset(sources)):
            constant.add(layer["name"])  # computed once, when the engine was loaded
        elif layer["type"] not in NOT_LAYERS and layer["ms"] is not None:
            layers.append(layer)
    return layers


def _layer(node):
    """Return a node of a runtime graph as a row; `ms` is None where it is not executed (folded, or done in place).

    A mean of less than a microsecond counts as not executed.
    """
    info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
    microseconds = info.get("execTimeMcs", "")
    return {
        "name": node.get_friendly_name(),
        "type": info["layerType"],
        "precision": PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"]),
        "kernel": info["primitiveType"],
        "ms": int(microseconds) / 1000 if microseconds.isdigit() else None,
    }


class OpenVinoSession(_cpu.CpuSession):
    """One compiled model and one infer request per batch size, imported when first needed."""

    def __init__(self, path: str, threads: int):
        self.name, self._threads = path, _cpu.threads_of(threads)
        self._header, self._parts = _container.read(path, probe.facts(NAME))
        self.batches = self._header["batches"]
        self._requests: dict[int, tuple[Any, Any]] = {}
        model = self._request(self._header["batches"][-1])[0]
        self.inputs = {model.input(0).get_any_name(): [-1] + list(model.input(0).shape)[1:]}
        self.outputs = {model.output(0).get_any_name(): [-1] + list(model.output(0).shape)[1:]}
        self.dtype = _dtype(model)
        self.facts = {"threads": int(model.get_property("INFERENCE_NUM_THREADS")), "cuda_graph": None}

    def _request(self, batch):
        if batch not in self._requests:
            model = _import(self.name, self._header, self._parts, batch, self._threads)
            self._requests[batch] = (model, model.create_infer_request())
        return self._requests[batch]

    def query(self, images: np.ndarray) -> tuple[Any, Any]:  # noqa: D102
        import openvino

        _, request = self._request(len(images))
        tensor = openvino.Tensor(images, shared_memory=True)
        request.set_input_tensor(tensor)
        return request.infer, lambda: request.get_output_tensor(0).data


def _dtype(model):
    return model.input(0).element_type.to_dtype().type
