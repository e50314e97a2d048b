"""TensorRT-RTX: engines are built without a GPU, from a strongly typed graph, and run on an RTX GPU.

The engine is the library's own serialized plan, as its tools expect it. Kernels are chosen when it is loaded; the
layers' precisions are read from the builder's log, because the inspector needs a loaded engine.
"""

from __future__ import annotations

import importlib.util
import re
import time
from typing import Any

from core.files import UserError
from devices import probe
from runtimes import PRECISIONS, _gpu, _tensorrt, check_recipe, description, import_library, missing_precisions

NAME = "tensorrt_rtx"
MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")  # the meta package's name, and its bindings' own
REMEDY = "install tensorrt-rtx-cu13-bindings, as envs/ pins it"


def library() -> Any:
    """Return the library's module; raise UserError where it is not installed."""
    return import_library(next(filter(importlib.util.find_spec, MODULES), NAME), REMEDY)


def fingerprint() -> dict:
    """Return the identity of TensorRT-RTX and of the GPU, whose facts are None where there is none."""
    return {**probe.facts(NAME), "build": library().__version__}


def build(onnx: str, recipe: dict, plan: dict | None, engine: str) -> dict:
    """Build a plan from a strongly typed graph: {compute, high_precision?, batches, compute_capabilities?}.

    compute_capabilities: ["8.9", ...] to build for, or absent for the library's portable default.
    Raises UserError naming the first node that does not parse, an unknown capability, or the library's reason.
    """
    check_recipe(NAME, recipe, PRECISIONS, plan)
    trt, start = library(), time.monotonic()
    _tensorrt.logger_of(trt).take()
    builder = trt.Builder(_tensorrt.logger_of(trt))
    network, parser = _tensorrt.parse(trt, builder, onnx)
    config = _config(trt, builder, network, recipe)
    plan_bytes = _tensorrt.serialize(trt, builder, network, config, onnx)
    with open(engine, "wb") as stream:
        stream.write(plan_bytes)
    del parser
    seconds, batches = time.monotonic() - start, sorted(set(recipe["batches"]))
    warnings, layers, _ = _tensorrt.take_build_log(trt)
    warnings += missing_precisions(recipe, layers)
    more = {"batches": batches, "layers_from": "the builder's log", "compute_capabilities": _capabilities(recipe)}
    return description(fingerprint(), layers, seconds, warnings, **more)


def load(engine: str, threads: int = 0) -> _gpu.GpuSession:
    """Return a session of an engine file; raise UserError without an RTX GPU, or where the file is not for it."""
    reason = probe.unreachable({"runtime": NAME})
    if reason:
        raise UserError(f"{engine} cannot be loaded here: {reason}: take the engine file to a machine that can run it")
    return _gpu.GpuSession(library(), _tensorrt.deserialize(library(), engine), engine)


def inspect(engine: str) -> list[dict]:
    """Return the layers of an engine file, on an RTX GPU; elsewhere see the engine's description."""
    return _tensorrt.layers_of_engine(library(), load(engine).engine)


def profile(engine: str, batch: int, threads: int = 0, queries: int = 20) -> list[dict]:
    """Return the layers with the milliseconds of each, on an RTX GPU."""
    return _gpu.profile(load(engine), inspect(engine), batch, queries)


def _capabilities(recipe):
    return [str(text) for text in recipe.get("compute_capabilities") or []]


def _config(trt, builder, network, recipe):
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _tensorrt.add_profile(builder, config, network, 1, max(recipe["batches"]))
    names = ["SM" + text.replace(".", "") for text in _capabilities(recipe)]
    known = sorted(name for name in dir(trt.ComputeCapability) if re.fullmatch(r"SM\d+", name))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"TensorRT-RTX cannot build for {', '.join(unknown)}: one of {', '.join(known)}")
    if names:
        config.num_compute_capabilities = len(names)
        for number, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), number)
    return config
