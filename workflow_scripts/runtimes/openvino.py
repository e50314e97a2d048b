"""OpenVINO on the CPU.

The engine is a container (runtimes/_container.py) with one compiled blob per batch size, each of static shape: static
shapes are 3 to 5 % faster here at batch 1 than a dynamic one, and the plan for each size is its own. Importing a blob
generates the machine code again, so the hints given then must be those given when it was compiled.
"""

import time

from core.files import UserError
from devices import probe
from runtimes import _container, _cpu, description, import_library, missing_precisions

NAME = "openvino"
REMEDY = "install openvino with this Python, as envs/ pins it"
HINTS = {"fp32": "f32", "bf16": "bf16"}  # what layers that are not quantized compute in; Q/DQ decides the others
PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
NOT_LAYERS = ("Const", "Input", "Output")


def fingerprint():
    """Return the identity of OpenVINO and the CPU it runs on."""
    core = import_library("openvino", REMEDY).Core()
    capabilities = sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    build = core.get_versions("CPU")["CPU"].build_number
    return {**probe.facts(NAME), "build": build, "capabilities": capabilities}


def build(onnx, recipe, plan, engine):
    """Compile a graph (clean or with Q/DQ) for each batch of the recipe: {compute, high_precision?, batches, threads?}.

    BF16 is FP32 on a processor without it, with a warning: OpenVINO would emulate it, slowly and without a word.
    Raises UserError for a precision that the CPU plug-in has not and for a graph that it cannot read or reshape.
    """
    if plan is not None:
        raise UserError("openvino takes no plan of precisions: quantize fewer nodes instead (placement)")
    here = fingerprint()
    start, parts, hint = time.monotonic(), {}, _hint(recipe, here["capabilities"])
    for batch in sorted(set(recipe["batches"])):
        parts[f"batch{batch}.blob"] = _compile(onnx, batch, hint, _cpu.threads_of(recipe.get("threads", 0)))
    seconds = time.monotonic() - start
    header = {**{key: here[key] for key in ("runtime",) + _container.BOUND}, "hint": hint}
    _container.write(engine, {**header, "batches": sorted(set(recipe["batches"]))}, parts)
    layers = inspect(engine)
    return description(
        here, layers, seconds, missing_precisions(recipe, layers), batches=sorted(set(recipe["batches"]))
    )


def load(engine, threads=0):
    """Return a session of an engine file; raise UserError where it is damaged or of another version or processor."""
    return OpenVinoSession(engine, threads)


def inspect(engine):
    """Return the layers that a query executes, read from the compiled model's runtime graph after one query."""
    return [{k: layer[k] for k in ("name", "type", "precision", "kernel")} for layer in _executed(engine, None, 0)]


def profile(engine, batch, threads=0, queries=20):
    """Return the executed layers with the milliseconds that each takes, averaged over some queries of a batch.

    OpenVINO tells whole microseconds. A first query, in which it sets itself up, is not part of the average.
    """
    return _executed(engine, batch, queries, threads)


def _hint(recipe, capabilities):
    compute = recipe.get("high_precision") or recipe["compute"]
    if compute not in HINTS:
        raise UserError(f"openvino cannot compute in {compute} on a CPU: one of {', '.join(sorted(HINTS))}")
    return HINTS[compute if compute.upper() in capabilities else "fp32"]


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
    try:
        blob = parts[f"batch{batch}.blob"]
        return core.import_model(blob, "CPU", {**_properties(header["hint"], threads), **extra})
    except (RuntimeError, KeyError) as error:
        raise UserError(f"{path}: OpenVINO cannot load its batch {batch} ({_reason(error)}): delete it") from None


def _reason(error):
    """Return the last lines of an OpenVINO error that say something, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join(telling or lines)[:400]


def _executed(path, batch, queries, threads=0):
    import numpy as np

    header, parts = _container.read(path, probe.facts(NAME))
    batch = batch or header["batches"][0]
    model = _import(path, header, parts, batch, _cpu.threads_of(threads), PERF_COUNT=True)
    request, images = model.create_infer_request(), np.zeros(list(model.input(0).shape), np.float32)
    request.infer([images])
    first = _told(model)
    if not queries:
        return first
    for _ in range(queries):
        request.infer([images])
    means = {layer["name"]: layer["ms"] for layer in _told(model)}  # of all queries: it knows no other
    total = {layer["name"]: (queries + 1) * means.get(layer["name"], 0.0) for layer in first}
    return [{**layer, "ms": max(total[layer["name"]] - layer["ms"], 0.0) / queries} for layer in first]


def _told(model):
    """Return the layers that a compiled model says it executed, with the mean of its queries until now."""
    layers, constant = [], set()
    for node in model.get_runtime_model().get_ordered_ops():
        layer, sources = _layer(node), [value.get_node().get_friendly_name() for value in node.input_values()]
        if layer["type"] == "Const" or (sources and constant.issuperset(sources)):
            constant.add(layer["name"])  # computed once, when the engine was loaded
        elif layer["type"] not in NOT_LAYERS and layer["ms"] is not None:
            layers.append(layer)
    return layers


def _layer(node):
    """Return a node of a runtime graph as a row; `ms` is None where it is not executed (folded, or done in place).

    A mean of less than a microsecond is told as not executed as well.
    """
    info = {key: value.astype(str) for key, value in node.get_rt_info().items()}
    taken = info.get("execTimeMcs", "")
    return {
        "name": node.get_friendly_name(),
        "type": info["layerType"],
        "precision": PRECISIONS.get(info["runtimePrecision"], info["runtimePrecision"]),
        "kernel": info["primitiveType"],
        "ms": int(taken) / 1000 if taken.isdigit() else None,
    }


class OpenVinoSession(_cpu.CpuSession):
    """One compiled model and one infer request per batch size, imported when first needed."""

    def __init__(self, path, threads):
        self.name, self._threads = path, _cpu.threads_of(threads)
        self._header, self._parts = _container.read(path, probe.facts(NAME))
        self.batches, self._requests = self._header["batches"], {}
        model = self._request(self.batches[-1])[0]
        self.inputs = {model.input(0).get_any_name(): [-1] + list(model.input(0).shape)[1:]}
        self.outputs = {model.output(0).get_any_name(): [-1] + list(model.output(0).shape)[1:]}
        self.facts = {"threads": int(model.get_property("INFERENCE_NUM_THREADS")), "cuda_graph": None}

    def _request(self, batch):
        if batch not in self._requests:
            model = _import(self.name, self._header, self._parts, batch, self._threads)
            self._requests[batch] = (model, model.create_infer_request())
        return self._requests[batch]

    def query(self, images):
        import openvino

        _, request = self._request(len(images))
        tensor = openvino.Tensor(images, shared_memory=True)
        request.set_input_tensor(tensor)
        return request.infer, lambda: request.get_output_tensor(0).data
