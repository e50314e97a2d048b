"""The properties of a machine that the bytes of trained weights depend on: device, dtype, threads, instructions.

The store's key needs them before any work, so torch is imported only on a machine with a GPU driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

import ctypes
import os

from core.files import system_text

# instruction sets that select kernels
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16", "sve")
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # those with fast bfloat16 products


def of_training(device: str, threads: int, processes: int) -> dict:
    """Return what the bytes of trained weights depend on besides inputs, parameters and code.

    device: auto, cpu or cuda; threads: of the processor (0: all cores); processes: sharing each batch, or 0.
    """
    if device_kind(device) == "cuda":
        return _of_gpu(processes)
    found = instructions()
    return {
        "device": "cpu",
        "dtype": "bfloat16" if set(found) & set(BFLOAT16) else "float32",
        "instructions": found,
        "processes": max(1, processes),
        "threads": of_processor(threads),
    }


def of_processor(threads: int) -> int:
    """Return the number of CPU threads; 0 stands for all cores."""
    return threads or len(os.sched_getaffinity(0))


def device_kind(device: str) -> str:
    """Return cpu or cuda for a device name; `auto` is a CUDA GPU if torch sees one."""
    if device != "auto":
        return device.partition(":")[0]
    if not _has_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _of_gpu(processes):
    import torch

    kind = fast_type(torch.device("cuda"))
    name = "float32" if kind is None else str(kind).rpartition(".")[2]
    return {"device": "cuda", "dtype": name, "processes": processes or torch.cuda.device_count()}


def fast_type(device: torch.device) -> torch.dtype | None:
    """Return the torch type that matrix products are fast in on the device, or None for float32.

    On a CPU that is bfloat16 where the instruction set has it; without, it is emulated and slow.
    """
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    return torch.bfloat16 if set(instructions()) & set(BFLOAT16) else None


def instructions() -> list[str]:
    """Return the sorted members of INSTRUCTIONS that this processor has."""
    lines = system_text("/proc/cpuinfo").splitlines()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return sorted(set(flags.split()) & set(INSTRUCTIONS))
