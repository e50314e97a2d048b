"""TensorRT's tools on this machine: trtexec, and what compiles plugins, CUDA's compiler and TensorRT's headers.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

from __future__ import annotations

import functools
import glob
import os
import platform
import re
import shutil

from core.files import system_output, system_text

INCLUDE = "TENSORRT_INCLUDE"  # environment: the folder of TensorRT's headers, where it is none of FOLDERS
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # of JetPack and Debian packages, not on PATH
FOLDERS = (f"/usr/include/{platform.machine()}-linux-gnu", "/usr/include", "/usr/local/tensorrt/include")
HEADER = "NvInferVersion.h"
PARTS = ("MAJOR", "MINOR", "PATCH", "BUILD")
RELEASE = re.compile(r"release [\d.]+, V([\d.]+)")


def trtexec() -> list[str]:
    """Return the paths of the installed trtexec: that on PATH, then the packages'."""
    paths = [shutil.which("trtexec"), TRTEXEC if os.access(TRTEXEC, os.X_OK) else None]
    return list(dict.fromkeys(path for path in paths if path))


def nvcc() -> str | None:
    """Return the path of CUDA's compiler ($NVCC, on PATH, or the toolkit's own folder), or None."""
    packaged = [path for path in sorted(glob.glob("/usr/local/cuda*/bin/nvcc")) if os.access(path, os.X_OK)]
    return shutil.which(os.environ.get("NVCC") or "nvcc") or (packaged[0] if packaged else None)


def include() -> str | None:
    """Return the folder of TensorRT's headers, or None."""
    folders = [os.environ[INCLUDE]] if os.environ.get(INCLUDE) else FOLDERS
    return next((folder for folder in folders if os.path.isfile(os.path.join(folder, HEADER))), None)


@functools.lru_cache(maxsize=None)
def facts() -> dict:
    """Return {"nvcc": its version or None, "headers": the version of TensorRT's headers or None}."""
    compiler, folder = nvcc(), include()
    return {"nvcc": compiler and _version(compiler), "headers": folder and _headers(folder)}


def _version(compiler):
    match = RELEASE.search(system_output(compiler, "--version"))
    return match.group(1) if match else None


def _headers(folder):
    """Return the version in a folder's headers; from 10.x on its numbers are macros of macros."""
    values = dict(re.findall(r"^#define (\w+) (\w+)", system_text(os.path.join(folder, HEADER)), re.MULTILINE))
    numbers = [values.get(f"NV_TENSORRT_{part}", "") for part in PARTS]
    numbers = [values.get(number, number) for number in numbers]
    return ".".join(numbers) if all(number.isdigit() for number in numbers[:3]) else None
