"""The properties of a machine that the bytes of trained weights depend on: device, dtype, threads, instructions.

The store's key needs them before any work, so torch is imported only on a machine with a GPU driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

import ctypes
from argparse import Namespace

from core import processors
from core.files import UserError, system_text

# instruction sets that select kernels
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # those with fast bfloat16 products
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # of a row's `compute`


def of_training(args: Namespace, recipe: dict) -> dict:
    """Return what the bytes of trained weights depend on besides inputs, parameters and code.

    args: device (auto, cpu or cuda), threads (0: all cores) and processes (0: as many as `processes_of` says); recipe:
    {batch, micro_batch?, compute?} of a training.
    """
    kind, threads = device_kind(args.device), args.threads or processors.available()
    processes = processes_of(args.processes, recipe, kind, threads)
    if kind == "cuda":
        return {"device": "cuda", "dtype": _dtype("cuda", recipe.get("compute")), "processes": processes}
    return {
        "device": "cpu",
        "dtype": _dtype("cpu", recipe.get("compute")),
        "instructions": instructions(),
        "processes": processes,
        "threads": threads,
    }


def processes_of(wanted: int, recipe: dict, device: str, threads: int) -> int:
    """Return the number of processes that share each batch.

    wanted: their number, or 0 for one per GPU, and on a CPU one for each micro-batch, at most `threads`; fewer if they
    cannot share a batch evenly; recipe: as of `of_training`; device: cpu or cuda. Raises UserError for a wanted number
    that cannot share it or has too few GPUs.
    """
    batch, parts = recipe["batch"], micro_batches(recipe)
    most = wanted or min(parts, threads)
    if device == "cuda":
        import torch

        gpus = torch.cuda.device_count()
        most = wanted or max(1, gpus)
        if 0 < gpus < wanted:
            raise UserError(f"--processes {wanted}: each needs a GPU, and there are {gpus}: set LEVIT_PROCESSES={gpus}")
    even = (n for n in range(min(most, batch), 0, -1) if batch % n == 0 and (parts % n == 0 or n % parts == 0))
    number = next(even)
    if wanted and number != wanted:
        several = f" of {parts} micro-batches" if parts > 1 else ""
        remedy = f"set LEVIT_PROCESSES={number}"
        raise UserError(f"--processes {wanted}: they cannot share batch {batch}{several} evenly: {remedy}")
    return number


def micro_batches(recipe: dict) -> int:
    """Return the number of micro-batches of a step."""
    return recipe["batch"] // (recipe.get("micro_batch") or recipe["batch"])


def device_kind(device: str) -> str:
    """Return cpu or cuda for a device name; `auto` is a CUDA GPU if torch sees one."""
    if device != "auto":
        return device.partition(":")[0]
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(kind, compute):
    """Return the name of the torch type of matrix products on a kind of device."""
    fast = _is_fast(kind) if compute != "fp16" else None
    if compute == "bf16" and kind == "cuda" and not fast:
        raise UserError("compute: bf16 of a training: this GPU has no bfloat16: set fp16, or leave it out")
    return DTYPES[compute or ("bf16" if fast else "fp32")]


def _is_fast(kind):
    """Return whether a kind of device computes products in bfloat16; a CPU without instructions for it emulates it."""
    if kind != "cuda":
        return bool(set(instructions()) & set(BFLOAT16))
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def product_type(device: torch.device, compute: str | None = None) -> torch.dtype | None:
    """Return the torch type of a training's matrix products, or None for float32.

    compute: fp32, bf16 or fp16 of its row; None: bfloat16 where the device is fast in it. Raises UserError for a GPU
    without bfloat16.
    """
    import torch

    name = _dtype(device.type, compute)
    return None if name == "float32" else getattr(torch, name)


def instructions() -> list[str]:
    """Return the sorted members of INSTRUCTIONS that this processor has."""
    lines = system_text("/proc/cpuinfo").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return sorted(set(flags.split()) & set(INSTRUCTIONS))
