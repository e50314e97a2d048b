"""What this machine is to a target.

    python workflow_scripts/probe.py openvino        prints `identity`

A new runtime or kind of device is a row of RUNTIMES or DEVICES. An identity has only facts that are constant between
upgrades: power modes, clocks and free memory belong to the benchmark.
"""

from __future__ import annotations

import collections
import functools
import glob
import hashlib
import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib import util

from core.files import system_output, system_text

# distributions: names that the runtime is installed under, by priority; device: a row of DEVICES, by default;
# capabilities: compute capabilities of devices that run its engines (None: any);
# module: an importable package whose text has its version, where it may be installed without a distribution;
# builds_anywhere: whether engines can be built without the device
Runtime = collections.namedtuple(
    "Runtime", "distributions device capabilities module builds_anywhere", defaults=(None, True)
)

RUNTIMES = {
    "openvino": Runtime(("openvino",), "cpu", None),
    "onnxruntime": Runtime(("onnxruntime",), "cpu", None),
    "pytorch": Runtime(("torch",), "cpu", None, "torch", False),  # or the `device` of a target's row
    "tensorrt_rtx": Runtime(
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "cuda",
        ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
    "tensorrt": Runtime(
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"), "cuda", None, "tensorrt", False
    ),
}
OF_THE_LIBRARY = ("build", "capabilities")  # facts of a recorded identity that only the loaded runtime knows
MACHINE_IDS = ("etc/machine-id", "var/lib/dbus/machine-id")
DEMANDS = ("architecture", "compute_capability")  # keys of a target's row that must equal this machine's facts
# Instruction sets by which kernels are chosen: x86 flags and Arm features, as /proc/cpuinfo names them.
FLAGS: tuple[str, ...] = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512dq", "avx512bw", "avx512vl")
FLAGS += ("avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
FLAGS += ("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")


def identity(row: dict) -> dict | None:
    """Return the facts of this machine where it is the target of a row, or None."""
    return _facts_of(row) if mismatch(row) is None else None


def report(row: dict) -> dict:
    """Return {"reason": why this machine cannot run a target's engines, or None, "identity"}."""
    return {"reason": unreachable(row), "identity": identity(row)}


def mismatch(row: dict) -> str | None:
    """Return why this machine is not the target of a row (runtime, version, demanded facts), or None."""
    name = row["runtime"]
    if name not in RUNTIMES:
        return f"runtime {name} is unknown: one of {', '.join(sorted(RUNTIMES))}"
    here = _facts_of(row)
    for key in DEMANDS:
        if row.get(key) is not None and str(row[key]) != str(here.get(key)):
            return f"{key} is {here.get(key) or 'none'} here{_jetpack(here)}, and the target's is {row[key]}"
    if here["version"] is None:
        return f"{RUNTIMES[name].distributions[0]} is not installed in {sys.executable}"
    if not _is_of(here["version"], row.get("version")):
        return f"{name} is {here['version']} here{_jetpack(here)}, and the target's is {row['version']}"
    if not RUNTIMES[name].builds_anywhere and here.get("compute_capability", "") is None:
        return f"{name} needs an NVIDIA GPU with its driver, and there is none here"
    if (row.get("dla") or 0) > (here.get("dla") or 0):
        return f"there are {here.get('dla') or 0} DLA cores here, and the target has {row['dla']}"
    return None


def _jetpack(here):
    """Return a Jetson's JetPack in brackets, or nothing for another machine."""
    release = re.match(r"L4T (\d+)", here.get("driver") or "")
    return f" ({here['driver']}: JetPack {JETPACKS.get(release.group(1), 'unknown')})" if release else ""


def jetpack() -> int | None:
    """Return the major number of this Jetson's JetPack, or None where it is unknown or this is no Jetson."""
    release = re.search(r"# R(\d+)", system_text(RELEASE))
    return JETPACKS.get(release.group(1)) if release else None


def _is_of(version, demanded):
    return demanded is None or f"{version}.".startswith(f"{demanded}.")


def unreachable(row: dict, purpose: str = "run") -> str | None:
    """Return why this machine cannot `build` or `run` a target's engines, or None."""
    reason = mismatch(row)
    if reason or purpose == "build":
        return reason
    allowed = RUNTIMES[row["runtime"]].capabilities
    here = _facts_of(row)
    if allowed is None or here["compute_capability"] in allowed:
        return None
    device = f"{here['device']} has {here['compute_capability']}" if here["device"] else "there is none here"
    return f"{row['runtime']} runs on a GPU of compute capability {', '.join(allowed)}, and {device}"


@functools.lru_cache(maxsize=None)
def facts(name: str, device: str | None = None) -> dict:
    """Return {"runtime", "version" (None: not installed), "architecture", ...} of here; device: a row of DEVICES."""
    runtime = RUNTIMES[name]
    installed = version(runtime.distributions) or version_in(runtime.module)
    base = {"runtime": name, "version": installed, "architecture": platform.machine()}
    return {**base, **DEVICES[device or runtime.device]()}


def _facts_of(row):
    return facts(row["runtime"], row.get("device"))


def machine(root: str | os.PathLike = "/") -> str | None:
    """Return a hash that identifies this machine without disclosing its id, or None where it has none."""
    ids = (system_text(os.path.join(root, path)).strip() for path in MACHINE_IDS)
    machine_id = next(filter(None, ids), None)
    return machine_id and hashlib.sha256(f"levit timing {machine_id}".encode()).hexdigest()[:32]


def version(distributions: Iterable[str]) -> str | None:
    """Return the version of the first installed one of some distributions, or None."""
    from importlib import metadata  # slow to import: only where a runtime is asked for

    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def version_in(module: str | None) -> str | None:
    """Return the `__version__` in the text of an importable package, or None."""
    spec = util.find_spec(module) if module else None
    text = system_text(spec.origin) if spec and spec.origin else ""
    versions = re.findall(r"^__version__ *= *[\"']([\w.]+)[\"']", text, re.MULTILINE)
    return versions[0] if versions else None


def _cpu():
    """Return the CPU's name, family and model numbers, and its instruction sets among FLAGS."""
    table = {}
    for line in system_text("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        table.setdefault(key.strip(), value.strip())
    flags = set((table.get("flags") or table.get("Features") or "").split())
    numbers = [table.get(key) for key in ("cpu family", "model", "CPU implementer", "CPU part")]
    board = system_text("/proc/device-tree/model").rstrip("\0\n")
    return {
        "device": table.get("model name") or board or platform.processor() or platform.machine(),
        "cpu": "/".join(number for number in numbers if number) or None,
        "isa": [flag for flag in FLAGS if flag in flags],
    }


NVIDIA = {"device": "name", "compute_capability": "compute_cap", "memory": "memory.total", "driver": "driver_version"}


# A Jetson's chip in its device tree: (compute capability, DLA cores); fewer cores by words of the model's name.
CHIPS = {"tegra194": ("7.2", 2), "tegra234": ("8.7", 2), "tegra264": ("11.0", 0)}
FEWER_CORES = (("Orin Nano", 0), ("Orin NX 8GB", 1), ("Orin NX Engineering Reference Developer Kit 8GB", 1))
JETPACKS = {"32": 4, "34": 5, "35": 5, "36": 6, "38": 7, "39": 7}  # by the major number of the L4T release
SYSTEM = os.environ.get("LEVIT_SYSTEM") or "/"  # where the board's /etc, /proc and /sys are, in a container say
RELEASE, TREE = os.path.join(SYSTEM, "etc/nv_tegra_release"), os.path.join(SYSTEM, "proc/device-tree")


def _nvidia():
    """Return the NVIDIA GPU's name, compute capability, memory, driver, CUDA and DLA cores, each None without one."""
    return {**(_jetson() or {**_smi(), "dla": None}), "cuda": _cuda()}


def _jetson():
    """Return a Jetson's facts, or None elsewhere: it has no nvidia-smi, and its driver is part of the L4T release."""
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
    parts = [f"nvidia-cuda-runtime{suffix}" for suffix in ("", "-cu13", "-cu12", "-cu11")]
    for path in sorted(glob.glob("/usr/local/cuda/version.*")):
        match = re.search(r"CUDA Version ([\d.]+)|\"cuda\"[^}]*\"version\" *: *\"([\d.]+)\"", system_text(path))
        if match:
            return match.group(1) or match.group(2)
    return version(parts)


def _smi():
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    options = f"--query-gpu={','.join(NVIDIA.values())}", "--format=csv,noheader", f"--id={visible or '0'}"
    lines = system_output("nvidia-smi", *options).splitlines() or [""]
    values = [value.strip() for value in lines[0].split(",")]
    return dict(zip(NVIDIA, values)) if len(values) == len(NVIDIA) else dict.fromkeys(NVIDIA)


DEVICES = {"cpu": _cpu, "cuda": _nvidia}
