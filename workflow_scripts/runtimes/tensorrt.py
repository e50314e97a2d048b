"""TensorRT on this machine's GPU, from 8.4 (JetPack 5.0) to 11: engines are the library's own plan files.

Features are looked up in the library's module. Up to 10.x networks are weakly typed: builder flags allow FP16 and INT8,
the builder obeys a plan of precisions, and INT8 may also come from a calibration cache. Later versions read all types
from the graph.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.files import UserError, replacing
from devices import probe
from runtimes import (
    PRECISIONS,
    _calibration,
    _dla,
    _gpu,
    _layers,
    _plugins,
    _tensorrt,
    check_recipe,
    description,
    import_library,
    missing_precisions,
    requested_precisions,
)

log = logging.getLogger("levit")
NAME = "tensorrt"
REMEDY = "install it as envs/ says; on a Jetson it is part of JetPack (python3-libnvinfer)"
TIMING_CACHES = "LEVIT_TIMING_CACHES"  # environment: a folder, set by reach.environment; without it there is no cache
TAKES_PLANS = True  # up to 10.x: later ones read all types from the graph
DLA_COMPUTES = ("fp16", "int8")
HEURISTIC = 2  # the highest optimization level that times only the kernels of a heuristic; 8.5 has a flag for it
DYNAMIC = "FASTER_DYNAMIC_SHAPES_0805"  # the default of later versions
EXTERNAL = ("CUBLAS", "CUBLAS_LT", "CUDNN")  # tactic sources outside of TensorRT, which later versions do not use


def library() -> Any:
    """Return the library's module, with this project's plugins; raise UserError where it is not installed."""
    trt = import_library(NAME, REMEDY)
    _plugins.load()
    return trt


def fingerprint() -> dict:
    """Return the identity of TensorRT and of the GPU."""
    return {**probe.facts(NAME), "build": library().__version__}


def build(onnx: str, recipe: dict, plan: dict | None, engine: str, calibration: str | None = None) -> dict:
    """Build a plan file from a clean or Q/DQ graph, with one optimization profile for each batch of the recipe.

    recipe: {compute, high_precision?, batches, tf32?, workspace_mb?, optimization_level?, external_tactics?,
    dynamic_batch?, dla?}; a profile is for all batches up to its own, or with dynamic_batch: false for that one alone.
    plan: {"nodes": [{"name", "precision"}], "graph"} that keep a higher precision, or None. calibration: path of a
    calibration cache, for INT8 without Q/DQ. Raises UserError naming the feature that the library lacks, the first node
    that does not parse, or the library's reason.
    """
    trt = library()
    _check(trt, recipe, plan, calibration)
    gpu, start = _tensorrt.need_gpu(), time.monotonic()
    _tensorrt.logger_of(trt).take()
    builder = trt.Builder(_tensorrt.logger_of(trt))
    network, parser = _tensorrt.parse(trt, builder, onnx)
    config = builder.create_builder_config()
    placement = _configure(trt, builder, config, network, recipe)
    plan_layers, unmatched = _apply_plan(trt, config, network, plan)
    if calibration:
        config.int8_calibrator = calibrator(trt, calibration, network)
    with _timing_cache(trt, config, gpu) as cached_bytes:
        data = _tensorrt.serialize(trt, builder, network, config, onnx)
    seconds = time.monotonic() - start
    with open(engine, "wb") as stream:
        stream.write(data)
    del parser
    warnings, _, on_dla = _tensorrt.take_build_log(trt)
    layers, unreadable = _read_back(engine)
    warnings += missing_precisions(recipe, layers) + unreadable + unmatched
    more = {"batches": sorted(set(recipe["batches"])), "timing_cache_bytes": cached_bytes, "plan_layers": plan_layers}
    if placement:
        more["dla"] = {"placed": placement, "built": on_dla}
    return description(fingerprint(), layers, seconds, warnings, **more)


def load(engine: str, threads: int = 0, interface: type | None = None) -> _gpu.GpuSession:
    """Return a session of an engine file; raise UserError where it is damaged, or of another version or device."""
    return _gpu.GpuSession(library(), _tensorrt.deserialize(library(), engine), engine, interface)


def inspect(engine: str) -> list[dict]:
    """Return the layers of an engine file, with the precision and tactic of each."""
    return _gpu.layers(load(engine))


def _read_back(engine):
    """Return (layers, warnings): an unexpected output of the inspector does not fail the build."""
    try:
        return _gpu.of_largest_batch(inspect(engine)), []
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001
        return None, [f"the engine's layers cannot be read back: {type(error).__name__}: {error}"]


def profile(engine: str, batch: int, threads: int = 0, queries: int = 20) -> list[dict]:
    """Return the layers with the milliseconds of each, averaged over some queries of a batch."""
    session = load(engine)
    return _gpu.profile(session, _gpu.layers(session), batch, queries)


# Building


def _check(trt, recipe, plan, calibration):
    version, computes = f"TensorRT {trt.__version__}", DLA_COMPUTES if recipe.get("dla") else PRECISIONS
    check_recipe(version, recipe, computes)
    for kind in requested_precisions(recipe):
        flag = _tensorrt.FLAGS.get(kind)
        if flag and not _tensorrt.is_strongly_typed(trt) and not hasattr(trt.BuilderFlag, flag):
            raise UserError(f"{version} has no {kind}: choose another precision for this target")
    if _tensorrt.is_strongly_typed(trt):
        if plan is not None:
            raise UserError(f"{version} takes types from the graph alone: set `typed: true` in the target's row")
        if calibration:
            raise UserError(f"{version} takes no calibration cache ({calibration}): quantize explicitly, with Q/DQ")
    if plan is not None and not hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"):
        raise UserError(f"{version} does not obey a plan of precisions: 8.2 or later does")


def _configure(trt, builder, config, network, recipe):
    """Configure a builder as a recipe asks; return the placement on a DLA, or None without one."""
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_workspace(trt, config, recipe.get("workspace_mb"))
    for kind in requested_precisions(recipe):
        flag = getattr(trt.BuilderFlag, _tensorrt.FLAGS.get(kind, ""), None)
        if flag is not None:
            config.set_flag(flag)
    if hasattr(trt.BuilderFlag, "TF32"):
        (config.set_flag if recipe.get("tf32") else config.clear_flag)(trt.BuilderFlag.TF32)
    if recipe.get("external_tactics") is False:
        _without_external(trt, config)
    if recipe.get("optimization_level") is not None:
        _set_level(trt, config, recipe["optimization_level"])
    if recipe.get("dla"):
        return _use_dla(trt, builder, config, network, recipe["batches"])
    fixed = recipe.get("dynamic_batch") is False
    if not fixed and hasattr(getattr(trt, "PreviewFeature", None), DYNAMIC):
        config.set_preview_feature(getattr(trt.PreviewFeature, DYNAMIC), True)
    for batch in sorted(set(recipe["batches"])):
        _tensorrt.add_profile(builder, config, network, batch if fixed else 1, batch)
    return None


def _set_workspace(trt, config, mebibytes):
    if mebibytes is None:
        return
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, mebibytes << 20)
    else:
        config.max_workspace_size = mebibytes << 20


def _without_external(trt, config):
    """Leave cuBLAS and cuDNN out, as TensorRT does by default from 8.6: builds are shorter."""
    sources = config.get_tactic_sources()
    for name in EXTERNAL:
        if hasattr(trt.TacticSource, name):
            sources &= ~(1 << int(getattr(trt.TacticSource, name)))
    config.set_tactic_sources(sources)
    feature = getattr(getattr(trt, "PreviewFeature", None), "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", None)
    if feature is not None:
        config.set_preview_feature(feature, True)


def _set_level(trt, config, level):
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = level
    elif level <= HEURISTIC and hasattr(trt.BuilderFlag, "ENABLE_TACTIC_HEURISTIC"):
        config.set_flag(trt.BuilderFlag.ENABLE_TACTIC_HEURISTIC)
    elif level <= HEURISTIC:
        log.info("TensorRT %s has no optimization levels: optimization_level %s is not used", trt.__version__, level)


def _use_dla(trt, builder, config, network, batches):
    """Place worthwhile subgraphs on DLA core 0 and the rest on the GPU; return the placement (_dla.place)."""
    if not builder.num_DLA_cores:
        raise UserError("the precision wants a deep learning accelerator, and TensorRT finds none here")
    if len(set(batches)) != 1:
        raise UserError(f"an engine on a DLA has one batch, not {len(set(batches))}: batches of the precision's row")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    _dla.fix_batch(network, batches[0])
    placement = _dla.place(trt, config, network)
    _tensorrt.logger_of(trt).take()  # the messages of can_run_on_DLA
    return placement


def _apply_plan(trt, config, network, plan):
    """Make the builder obey a plan; return (number of layers with a set precision or None, warnings)."""
    if plan is None:
        return None, []
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    count, missing = _layers.apply_plan(trt, network, plan)
    if missing and not count:
        raise UserError(f"none of the plan's {len(missing)} nodes is a layer of this graph ({missing[0]}): plan again")
    return count, [f"the plan's node {name} has no layer in TensorRT's network" for name in missing]


# Calibration caches


def calibrator(trt: Any, path: str, network: Any) -> Any:
    """Return a calibrator that reads a cache, of whatever version of TensorRT, and has no images.

    Tensors that the parser added to the network get the scales that follow from the cache's.
    """
    scales, missing = _calibration.complete(trt, network, _calibration.read(path))
    if missing:
        log.info("%s: no scale for %s: layers that touch them are not INT8", path, ", ".join(missing))
    text = _calibration.text(scales, trt.__version__)

    class FromCache(trt.IInt8EntropyCalibrator2):
        def __init__(self):
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self):
            return 1

        def get_batch(self, names):
            return None

        def read_calibration_cache(self):
            return text.encode("ascii")

        def write_calibration_cache(self, cache):
            return None

    return FromCache()


# Timing caches


def timing_cache_path(version: str, gpu: dict) -> Path | None:
    """Return the timing cache of a version on a GPU, or None; it decides how long builds take and nothing else."""
    folder = os.environ.get(TIMING_CACHES)
    parts = [NAME, version, gpu["name"], gpu["compute_capability"], gpu["driver"]]
    return Path(folder) / (re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(parts)) + ".timing") if folder else None


@contextlib.contextmanager
def _timing_cache(trt, config, gpu) -> Iterator[int | None]:
    """Let a build use the timing cache, and add its timings to it. Yields the cache's size before, or None without."""
    path = timing_cache_path(trt.__version__, gpu)
    if path is None:
        yield None
        return
    data = path.read_bytes() if path.exists() else b""
    config.set_timing_cache(_create_cache(config, data, path), False)
    yield len(data)
    try:
        _add_timings(config, data, path)
    except Exception as error:  # noqa: BLE001 (a cache that cannot be written does not fail the build)
        log.info("%s: the timing cache is not written: %s", path, error)


def _add_timings(config, data, path):
    """Add a build's timings to the file, whose content was `data` before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "a") as lock:  # concurrent builds add to each other's timings
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache = config.get_timing_cache()
        newer = path.read_bytes() if path.exists() else b""
        if newer and newer != data:
            cache.combine(_create_cache(config, newer, path), False)
        with replacing(path) as partial:
            Path(partial).write_bytes(bytes(cache.serialize()))


def _create_cache(config, data, path):
    try:
        cache = config.create_timing_cache(data)
    except (RuntimeError, TypeError, ValueError):
        cache = None
    if cache is None:
        log.info("%s: not a timing cache of this TensorRT: it is replaced", path)
        cache = config.create_timing_cache(b"")
    return cache
