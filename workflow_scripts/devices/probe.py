"""What this machine is to a target, asked with the standard library alone: Snakemake calls it while it parses.

    python workflow_scripts/probe.py openvino        prints what `identity` says

A new runtime or kind of device is a row of RUNTIMES or DEVICES. Nothing here changes by itself: power modes, clocks
and free memory belong to the benchmark.
"""

from __future__ import annotations

import collections
import functools
import glob
import os
import platform
import re
import shutil
import subprocess
import sys

from core.files import system_text

# distributions: names that the runtime is installed under, the first one found counts; device: a row of DEVICES;
# capabilities: what its device's compute capability must be among to run an engine (None: any);
# module: an importable package whose text says its version, where it may be installed without a distribution;
# builds_anywhere: whether engines can be built without the device
Runtime = collections.namedtuple(
    "Runtime", "distributions device capabilities module builds_anywhere", defaults=(None, True)
)

RUNTIMES = {
    "openvino": Runtime(("openvino",), "cpu", None),
    "onnxruntime": Runtime(("onnxruntime",), "cpu", None),
    "tensorrt_rtx": Runtime(
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "nvidia",
        ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
    "tensorrt": Runtime(
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"), "nvidia", None, "tensorrt", False
    ),
}
OF_THE_LIBRARY = ("build", "capabilities")  # of a recorded identity: facts that only the loaded runtime knows
DEMANDS = ("architecture", "compute_capability")  # facts that a target's row may state; here they must be the same
# What kernels are chosen by: flags of x86 and features of Arm, as /proc/cpuinfo names them.
FLAGS: tuple[str, ...] = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512dq", "avx512bw", "avx512vl")
FLAGS += ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
FLAGS += ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


def identity(row):
    """Return what this machine is to a target's row as a dict of facts, or None where it is not that target."""
    return facts(row["runtime"]) if mismatch(row) is None else None


def mismatch(row):
    """Return why this machine is not a target's, in one line, or None: its runtime, and the facts that it demands."""
    name = row["runtime"]
    if name not in RUNTIMES:
        return f"runtime {name} is unknown: one of {', '.join(sorted(RUNTIMES))}"
    found = facts(name)
    for key in DEMANDS:
        if row.get(key) is not None and str(row[key]) != str(found.get(key)):
            return f"{key} is {found.get(key) or 'none'} here{_jetpack(found)}, and the target's is {row[key]}"
    if found["version"] is None:
        return f"{RUNTIMES[name].distributions[0]} is not installed in {sys.executable}"
    if not _is_of(found["version"], row.get("version")):
        return f"{name} is {found['version']} here{_jetpack(found)}, and the target's is {row['version']}"
    if not RUNTIMES[name].builds_anywhere and found["compute_capability"] is None:
        return f"{name} needs an NVIDIA GPU with its driver, and there is none here"
    if (row.get("dla") or 0) > (found.get("dla") or 0):
        return f"there are {found.get('dla') or 0} DLA cores here, and the target has {row['dla']}"
    return None


def _jetpack(found):
    """Return which JetPack a board has, in brackets, or nothing where it is no Jetson."""
    release = re.match(r"L4T (\d+)", found.get("driver") or "")
    return f" ({found['driver']}: JetPack {JETPACKS.get(release.group(1), 'unknown')})" if release else ""


def _is_of(version, demanded):
    """Return whether a version (8.5.2.2) is of a demanded one (8.5)."""
    return demanded is None or f"{version}.".startswith(f"{demanded}.")


def unreachable(row, purpose="run"):
    """Return why this machine cannot `build` or `run` a target's engines, in one line, or None where it can."""
    reason = mismatch(row)
    if reason or purpose == "build":
        return reason
    allowed = RUNTIMES[row["runtime"]].capabilities
    found = facts(row["runtime"])
    if allowed is None or found["compute_capability"] in allowed:
        return None
    here = f"{found['device']} has {found['compute_capability']}" if found["device"] else "there is none here"
    return f"{row['runtime']} runs on a GPU of compute capability {', '.join(allowed)}, and {here}"


@functools.lru_cache(maxsize=None)
def _facts(name):
    runtime = RUNTIMES[name]
    found = version(runtime.distributions) or version_in(runtime.module)
    base = {"runtime": name, "version": found, "architecture": platform.machine()}
    return {**base, **DEVICES[runtime.device]()}


def facts(name):
    """Return {"runtime", "version" (None: not installed), "architecture", "device", ...} of a runtime here."""
    return dict(_facts(name))


def version(distributions):
    """Return the version of the first of these distributions that is installed, or None."""
    from importlib import metadata

    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def version_in(module):
    """Return the `__version__` in the text of an importable package, or None."""
    from importlib import util

    found = util.find_spec(module) if module else None
    text = system_text(found.origin) if found and found.origin else ""
    versions = re.findall(r"^__version__ *= *[\"']([\w.]+)[\"']", text, re.MULTILINE)
    return versions[0] if versions else None


def _cpu():
    """Return the CPU's name, numbers and those of its instruction sets that kernels are chosen by."""
    table = {}
    for line in system_text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        table.setdefault(key.strip(), value.strip())
    flags = set((table.get("flags") or table.get("Features") or "").split())
    numbers = [table.get(key) for key in ("cpu family", "model", "CPU implementer", "CPU part")]
    return {
        "device": table.get("model name") or _board() or platform.processor() or platform.machine(),
        "cpu": "/".join(number for number in numbers if number) or None,
        "isa": [flag for flag in FLAGS if flag in flags],
    }


def _board():
    return system_text("/proc/device-tree/model").rstrip("\0\n")


NVIDIA = {"device": "name", "compute_capability": "compute_cap", "memory": "memory.total", "driver": "driver_version"}


# A Jetson's chip, as its device tree names it: compute capability and DLA cores; fewer cores by words of its model.
CHIPS = {"tegra194": ("7.2", 2), "tegra234": ("8.7", 2), "tegra264": ("11.0", 0)}
FEWER_CORES = (("Orin Nano", 0), ("Orin NX 8GB", 1), ("Orin NX Engineering Reference Developer Kit 8GB", 1))
JETPACKS = {"32": 4, "34": 5, "35": 5, "36": 6, "38": 7, "39": 7}  # by the first number of the L4T release
RELEASE, TREE = "/etc/nv_tegra_release", "/proc/device-tree"


def _nvidia():
    """Return the NVIDIA GPU's name, compute capability, memory, driver, CUDA and DLA cores, each None without one."""
    return {**(_jetson() or {**_smi(), "dla": None}), "cuda": _cuda()}


def _jetson():
    """Return a Jetson's facts, or None elsewhere: nvidia-smi is not on it, and its driver is part of its release."""
    release = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", system_text(RELEASE))
    if release is None:
        return None
    model, chips = system_text(f"{TREE}/model").strip("\0\n"), system_text(f"{TREE}/compatible")
    capability, cores = next((facts for chip, facts in CHIPS.items() if chip in chips), (None, 0))
    cores = next((fewer for words, fewer in FEWER_CORES if words in model), cores)
    kilobytes = re.search(r"^MemTotal:\s+(\d+)", system_text("/proc/meminfo"), re.MULTILINE)
    return {
        "device": model or "Jetson",
        "compute_capability": capability,
        "memory": f"{round(int(kilobytes.group(1)) / 2**20)} GiB" if kilobytes else None,
        "driver": f"L4T {release.group(1)}.{release.group(2)}",
        "dla": cores,
    }


def _cuda():
    """Return the version of the CUDA runtime that is installed here, or None."""
    parts = [f"nvidia-cuda-runtime{suffix}" for suffix in ("", "-cu13", "-cu12", "-cu11")]
    for path in sorted(glob.glob("/usr/local/cuda/version.*")):
        found = re.search(r"CUDA Version ([\d.]+)|\"cuda\"[^}]*\"version\" *: *\"([\d.]+)\"", system_text(path))
        if found:
            return found.group(1) or found.group(2)
    return version(parts)


def _smi():
    """Return what nvidia-smi says of the first visible GPU."""
    nothing = dict.fromkeys(NVIDIA)
    program = shutil.which("nvidia-smi")
    if program is None:
        return nothing
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    command = [program, "--query-gpu=" + ",".join(NVIDIA.values()), "--format=csv,noheader", "--id=" + (visible or "0")]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return nothing
    values = [
        value.strip() for value in done.stdout.decode("utf-8", "replace").splitlines()[:1] for value in value.split(",")
    ]
    return dict(zip(NVIDIA, values)) if done.returncode == 0 and len(values) == len(NVIDIA) else nothing


DEVICES = {"cpu": _cpu, "nvidia": _nvidia}
