"""PyTorch on the processor or an NVIDIA GPU, eager or compiled by Inductor: what most people run today.

The engine is a container (runtimes/_container.py) with the network's program (runtimes/_program.py) in the precision
that it computes in: weights are converted, images are cast to it and logits back to FP32 inside the program. Inductor's
code is not in the engine: it is compiled again for each batch size when that is first run, or taken from Inductor's own
cache on this machine, and never part of a timing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from core.files import UserError
from devices import probe
from runtimes import (
    _attention,
    _container,
    _cpu,
    _program,
    _torch_cuda,
    check_recipe,
    description,
    import_library,
    missing_precisions,
)

NAME = "pytorch"
PART = "program.pt2"
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PRECISIONS = {f"torch.{name}": precision for precision, name in DTYPES.items()}
# operators that move no data, or that are the identity in inference
VIEWS = "view reshape permute transpose slice split_with_sizes expand unsqueeze squeeze flatten select dropout t detach"
CACHES = "LEVIT_TIMING_CACHES"  # environment: a folder, set by reach.environment; without it torch uses its own
COMPILER = "install a C++ compiler (g++) or leave `compile` out of the target's row"


def fingerprint(device: str | None = None) -> dict:
    """Return the identity of PyTorch and of the device that it runs on: `device` of a target's row."""
    return {**probe.facts(NAME, device), "build": _program.library().__version__}


def build(onnx: str, recipe: dict, plan: dict | None, engine: str) -> dict:
    """Convert a program (`onnx` is its .pt2 archive) to the precision and device of the recipe, and compile it.

    The recipe is {compute, batches, device?, compile?, fused_attention?, tf32?, threads?}. Raises UserError for INT8
    and for plans, which are of ONNX graphs, without a usable GPU, and where Inductor cannot compile.
    """
    check_recipe(NAME, recipe, DTYPES, plan)
    device, start = recipe.get("device") or "cpu", time.monotonic()
    _check_device(device)
    program = _program.load(onnx, Path(onnx).read_bytes())
    if recipe.get("fused_attention"):
        program = _attention.fuse(program, _size(program)[1], device)
    program = _converted(program, recipe["compute"], device)
    here, compiled = fingerprint(device), bool(recipe.get("compile"))
    header = {"runtime": NAME, "version": here["version"], "device": device, "compile": compiled}
    header["fused_attention"] = bool(recipe.get("fused_attention"))
    header.update(tf32=bool(recipe.get("tf32")), batches=sorted(set(recipe["batches"])) if compiled else None)
    _container.write(engine, header, {PART: _program.serialize(program)})
    session = load(engine, recipe.get("threads", 0))
    for batch in header["batches"] or ():
        session.run(np.zeros([batch] + session.inputs["x"][1:], np.float32))
    seconds, layers = time.monotonic() - start, _layers(program)
    return description(here, layers, seconds, missing_precisions(recipe, layers), batches=header["batches"])


def load(engine: str, threads: int = 0) -> PyTorchSession | _torch_cuda.CudaSession:
    """Return a session of an engine file; raise UserError where it is damaged, of another version, or has no device."""
    header, program = _read(engine)
    torch = _prepare(header, threads)
    network = program.module()
    if header["compile"]:
        network = _explained(torch.compile(network, dynamic=False), engine)
    kind = _torch_cuda.CudaSession if header["device"] == "cuda" else PyTorchSession
    return kind(engine, network, _size(program), header["batches"])


def inspect(engine: str) -> list[dict]:
    """Return the operators that compute, with the type of their results; Inductor fuses several into one kernel."""
    return _layers(_read(engine)[1])


def profile(engine: str, batch: int, threads: int = 0, queries: int = 20) -> list[dict]:
    """Return the operators, or the kernels of a compiled engine, with the milliseconds of each, averaged over queries.

    On a GPU an operator's time contains the gap before it, where the processor is slower than the GPU.
    """
    header, program = _read(engine)
    torch = _prepare(header, threads)
    images = torch.zeros(batch, *_size(program), device=header["device"])
    if header["compile"]:
        return _profiled_kernels(torch, torch.compile(program.module(), dynamic=False), images, queries)
    return _profiled_operators(torch, program, images, queries)


def _read(engine):
    header, parts = _container.read(engine, probe.facts(NAME))
    _check_device(header["device"])
    if header.get("fused_attention"):
        _attention.register()
    return header, _program.load(engine, parts[PART])


def _check_device(device):
    torch = _program.library()
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"torch {torch.__version__} cannot use a GPU here: install its build for this driver's CUDA")


def _prepare(header, threads):
    """Set threads, types of products and Inductor's cache; return torch."""
    torch = _program.library()
    torch.set_num_threads(_cpu.threads_of(threads))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = header["tf32"]
    if header["compile"] and os.environ.get(CACHES):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.abspath(os.path.join(os.environ[CACHES], "inductor")))
    return torch


def _size(program):
    return [int(size) for size in _inputs(program)[0].meta["val"].shape[1:]]


def _inputs(program):
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _converted(program, compute, device):
    torch, dtype = _program.library(), DTYPES[compute]
    if device != "cpu":
        passes = import_library("torch.export.passes", _program.REMEDY)  # torch 2.11 does not import it itself
        program = passes.move_to_device_pass(program, device)
    if compute == "fp32":
        return program

    class Converted(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self):
            super().__init__()
            self.dtype, self.network = getattr(torch, dtype), program.module().to(getattr(torch, dtype))

        def forward(self, x):
            return self.network(x.to(self.dtype)).float()

    return _program.named_as(_program.export(Converted(), _size(program)[1], device), program)


def _explained(compiled, engine):
    """Return a compiled network whose first failure is a UserError."""

    def run(images):
        try:
            return compiled(images)
        except Exception as error:  # Inductor's exceptions share no public base
            what = f"{engine}: Inductor cannot compile it for batch {len(images)}"
            raise UserError(f"{what} ({_program.reason(error)}): {COMPILER}") from None

    return run


def _layers(program):
    return [_layer(node) for node in program.graph.nodes if _computes(node)]


def _computes(node):
    """Return whether a node of a program's graph is an operator that computes or converts a tensor."""
    value, name = node.meta.get("val"), _program.operator(node)
    return node.op == "call_function" and hasattr(value, "dtype") and name not in (*VIEWS.split(), "getitem")


def _layer(node):
    modules, name = list((node.meta.get("nn_module_stack") or {}).values()), _program.operator(node)
    path = f"{modules[-1][0]}/{node.name}" if modules and modules[-1][0] else node.name
    precision, kind = str(node.meta["val"].dtype), "Cast" if name in _program.CAST else name
    return {"name": path, "type": kind, "precision": PRECISIONS.get(precision, precision)}


def _profiled_operators(torch, program, images, queries):
    """Return the layers of a program with the milliseconds of each, which an interpreter of its graph measures."""
    module, wait = program.module(), torch.cuda.synchronize if images.is_cuda else lambda: None
    times: dict[str, float] = {}

    class Timed(torch.fx.Interpreter):  # type: ignore[name-defined]
        def run_node(self, node):
            wait()
            start = time.perf_counter()
            value = super().run_node(node)
            wait()
            times[node.name] = times.get(node.name, 0.0) + 1e3 * (time.perf_counter() - start)
            return value

    with torch.inference_mode():
        module(images)
        interpreter = Timed(module)
        for _ in range(queries):
            interpreter.run(images)
    nodes = [node for node in program.graph.nodes if _computes(node)]
    return [{**_layer(node), "ms": times.get(node.name, 0.0) / queries} for node in nodes]


def _profiled_kernels(torch, network, images, queries):
    """Return the kernels of a compiled network in order of their first run, as torch's profiler sees them."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if images.is_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    torch._inductor.config.cpp.enable_kernel_profile = True
    with torch.inference_mode():
        network(images)
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(queries):
                network(images)
    kind = "self_device_time_total" if images.is_cuda else "self_cpu_time_total"
    times = [(event.key, getattr(event, kind) / 1e3 / queries) for event in profiler.key_averages()]
    return [{"name": name, "type": "kernel", "precision": "unknown", "ms": ms} for name, ms in times if ms > 0]


class PyTorchSession(_cpu.CpuSession):
    """A network on the processor."""

    def __init__(self, path: str, network: Any, size: list[int], batches: list[int] | None):
        torch = _program.library()
        self.name, self.batches, self._network = path, batches, network
        self.inputs, self.outputs = {"x": [-1, *size]}, {"logits": [-1, -1]}
        self.facts = {"threads": torch.get_num_threads(), "cuda_graph": None}

    def query(self, images: np.ndarray) -> tuple[Any, Any]:  # noqa: D102
        torch, results = _program.library(), []
        batch = torch.from_numpy(images)

        def run():
            with torch.inference_mode():
                results[:] = [self._network(batch)]

        return run, lambda: results[0].numpy()
