"""What this machine is to a target, asked with the standard library alone: Snakemake calls it while it parses.

    python workflow_scripts/probe.py openvino        prints what `identity` says

A new runtime or kind of device is a row of RUNTIMES or DEVICES. Nothing here changes by itself: power modes, clocks
and free memory belong to the benchmark.
"""

import collections
import functools
import json
import os
import platform
import shutil
import subprocess
import sys

# distributions: names that the runtime is installed under, the first one found counts; device: a row of DEVICES;
# capabilities: what its device's compute capability must be among to run an engine (None: any)
Runtime = collections.namedtuple("Runtime", "distributions device capabilities")

RUNTIMES = {
    "openvino": Runtime(("openvino",), "cpu", None),
    "onnxruntime": Runtime(("onnxruntime",), "cpu", None),
    "tensorrt_rtx": Runtime(
        ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        "nvidia",
        ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    ),
}
DEMANDS = ("architecture", "compute_capability")  # facts that a target's row may state; here they must be the same
# What kernels are chosen by: flags of x86 and features of Arm, as /proc/cpuinfo names them.
FLAGS = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni")
FLAGS += ("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
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
    if found["version"] is None:
        return f"{RUNTIMES[name].distributions[0]} is not installed in {sys.executable}"
    for key in DEMANDS:
        if row.get(key) is not None and str(row[key]) != str(found.get(key)):
            return f"{key} is {found.get(key) or 'none'} here, and the target's is {row[key]}"
    return None


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
    base = {"runtime": name, "version": version(runtime.distributions), "architecture": platform.machine()}
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


def _cpu():
    """Return the CPU's name, numbers and those of its instruction sets that kernels are chosen by."""
    table = {}
    for line in _text("/proc/cpuinfo").splitlines():
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
    return _text("/proc/device-tree/model").rstrip("\0\n")


NVIDIA = {"device": "name", "compute_capability": "compute_cap", "memory": "memory.total", "driver": "driver_version"}


def _nvidia():
    """Return the first visible NVIDIA GPU's name, compute capability, memory and driver, each None without one."""
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


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


if __name__ == "__main__":
    print(json.dumps(identity({"runtime": sys.argv[1]}), indent=2))
