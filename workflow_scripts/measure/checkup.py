"""What a machine has of what a target's jobs need: one finding a line, with its remedy.

Standard library only, Python 3.8: a host sends the text of this module to a board (devices/survey.py).
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

from core.files import system_text
from devices import power_modes, probe, toolchain
from measure import jetson, rails

OK, NOTE, MISSING = "ok", "note", "missing"  # states: right, worth knowing, what jobs fail without
MODULES = {  # what the jobs of a runtime import
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "pytorch": "torch",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx_bindings",
}
PIN = re.compile(r"^([\w-]+)==([\w.+!]+) *(?:#.*)?$", re.MULTILINE)  # without a marker: needed on every machine
OF_JOBS = ("numpy", "pillow", "cuda-python", "cuda-bindings")  # pins that a board needs without Snakemake
GIB = 1 << 30
DISK = 2 * GIB  # bytes for the engines, images and logs of a few results
MEMORY = 1.5 * GIB  # bytes of a job of LeViT-384 without TensorRT's workspace: docs/jetson.md
LISTED = 4  # packages that a line names


def finding(topic: str, state: str, text: str, remedy: str | None = None) -> dict:
    """Return a finding: {"topic", "state", "text", "remedy"}."""
    return {"topic": topic, "state": state, "text": text, "remedy": remedy}


def examine(rows: dict, pins: dict, is_remote: bool = False, is_asked: bool = False) -> dict:
    """Return what this machine is and has: {"findings": [...], "identities": {target: facts or None}, "clock"}.

    rows: {target: its row}; pins: {name of a file of envs/: its text}; is_remote: whether jobs come over ssh, which
    needs rsync and no Snakemake; is_asked: whether this machine is meant to be the target of every row. clock: seconds
    since 1970.
    """
    fitting = {target: row for target, row in rows.items() if probe.mismatch(row) is None}
    findings = [*_software(pins, is_remote), *_room(fitting), *_gpu(), *_jetson()]
    for target, row in rows.items():
        findings += _target(target, row, is_asked)
    if not fitting and not is_asked:
        problem = "this machine is none of config.yaml's"
        findings.append(finding("targets", MISSING, problem, "add a row that fits it (CONTRIBUTING.md)"))
    findings += [_importing(runtime) for runtime in sorted({row["runtime"] for row in fitting.values()})]
    identities = {target: probe.identity(row) for target, row in rows.items()}
    return {"findings": findings, "identities": identities, "clock": time.time()}


def _software(pins, is_remote) -> Iterator[dict]:
    yield finding("Python", OK, f"{sys.version.split()[0]}, {sys.executable}")
    if is_remote:
        has_rsync = shutil.which("rsync") is not None
        yield finding("rsync", *((OK, "installed") if has_rsync else (MISSING, "absent", "sudo apt-get install rsync")))
    name = _pins_of_this_machine()
    pinned = PIN.findall(pins.get(name, ""))
    wanted = {package: version for package, version in pinned if package in OF_JOBS or not is_remote}
    installed = {package: probe.version([package]) for package in wanted}
    absent = [f"{package}=={wanted[package]}" for package, version in installed.items() if version is None]
    others = {package: version for package, version in installed.items() if version not in (None, wanted[package])}
    if absent:
        yield finding("packages", MISSING, f"not installed: {_some(absent)}", _pip(absent, name))
    if others:
        changed = [f"{package} {version} (pinned: {wanted[package]})" for package, version in others.items()]
        remedy = _pip([f"{package}=={wanted[package]}" for package in others], name)
        yield finding("packages", NOTE, f"other versions than envs/{name} has: {_some(changed)}", remedy)
    if wanted and not absent and not others:
        yield finding("packages", OK, f"{len(wanted)} as envs/{name} pins them")


def _pins_of_this_machine():
    """Return the name of the file of envs/ that is for this machine and interpreter, or nothing."""
    here = probe.facts("tensorrt")
    if probe.jetpack():
        return f"jetson-jp{probe.jetpack()}.txt"
    if sys.version_info >= (3, 11) or here["device"] is None:
        return "host.txt" if sys.version_info >= (3, 11) else ""
    return f"gpu-trt{'8' if (here['version'] or '').startswith('8') else '10'}.txt"


def _pip(pinned, name):
    return f"{sys.executable} -m pip install {' '.join(pinned) if len(pinned) <= LISTED else f'-r envs/{name}'}"


def _some(names):
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {more} more" if more > 0 else "")


def _room(rows) -> Iterator[dict]:
    free = shutil.disk_usage(".").free
    remedy = "remove old engines and images: results/, .cache/, or a board's work folder (docs/remote.md)"
    yield _amount("disk", free, DISK, remedy)
    kilobytes = re.search(r"^MemAvailable:\s+(\d+)", system_text("/proc/meminfo"), re.MULTILINE)
    workspace = max((row.get("workspace_mb") or 0 for row in rows.values()), default=0)
    if kilobytes:
        needed = MEMORY + (workspace << 20)
        remedy = "end other programs; `sudo systemctl isolate multi-user.target` ends the desktop"
        yield _amount("memory", int(kilobytes.group(1)) << 10, needed, remedy)


def _amount(topic, free, needed, remedy):
    """Return a finding on free bytes: a note below what is needed, missing below a tenth of it."""
    if free >= needed:
        return finding(topic, OK, f"{free / GIB:.1f} GiB free")
    text = f"{free / GIB:.1f} GiB free, jobs need up to {needed / GIB:.1f} GiB"
    return finding(topic, NOTE if free >= needed / 10 else MISSING, text, remedy)


def _gpu() -> Iterator[dict]:
    here = probe.facts("tensorrt")
    if here["device"] is None:
        return
    known = [here["device"], f"compute capability {here['compute_capability']}", here["driver"], here["memory"]]
    yield finding("GPU", OK, ", ".join(filter(None, known)) + (f", {here['dla']} DLA cores" if here["dla"] else ""))
    remedy = "sudo apt-get install nvidia-jetpack" if probe.jetpack() else "install the CUDA runtime"
    yield finding("CUDA", *((OK, here["cuda"]) if here["cuda"] else (MISSING, "no runtime is installed", remedy)))
    programs, remedy = toolchain.trtexec(), "sudo apt-get install libnvinfer-bin"
    absent = (NOTE, "not installed: engines are timed without it", remedy)
    yield finding("trtexec", *((OK, programs[0]) if programs else absent))
    tools = toolchain.facts()
    lacking = [name for name, version in tools.items() if version is None]
    if lacking:
        remedy = "sudo apt-get install cuda-nvcc libnvinfer-dev" if probe.jetpack() else "docs/tensorrt.md lists them"
        yield finding("plugin", NOTE, f"cannot be compiled here without TensorRT's {' and '.join(lacking)}", remedy)
    else:
        yield finding("plugin", OK, f"nvcc {tools['nvcc']}, TensorRT's headers {tools['headers']}")


def _jetson() -> Iterator[dict]:
    if probe.jetpack() is None:
        return
    root = probe.SYSTEM
    closed = jetson.closed_nodes(root)
    if closed:
        remedy = "sudo usermod -aG video,render $USER, then log in again"
        yield finding("access", MISSING, f"this user may not open {', '.join(closed)}", remedy)
    mode, modes = power_modes.current(root), power_modes.modes(root)
    text = f"{mode} of {', '.join(modes)}" if modes else mode
    unknown = (NOTE, "nvpmodel names no mode", "sudo apt-get install nvidia-l4t-nvpmodel")
    yield finding("power mode", *((OK, text) if mode else unknown))
    clocks = ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in jetson.clocks_mhz(root).items())
    yield finding("clocks", *((OK, clocks) if clocks else (NOTE, "none can be read", "in a container, mount /sys")))
    lowest, highest = jetson.gpu_range_mhz(root)
    if lowest != highest:
        text = f"the GPU's follows its load, {lowest:.0f} to {highest:.0f} MHz: short timings vary"
        yield finding("clocks", NOTE, text, "sudo jetson_clocks, until the next start")
    power = {name: mw for name, mw in rails.power_mw(rails.sensors(root)).items() if not math.isnan(mw)}
    text = f"{', '.join(power)}; the module draws {(rails.total_mw(power) or 0) / 1e3:.1f} W"
    absent = (NOTE, "no sensor: energy is null in results", "in a container, mount /sys")
    yield finding("power rails", *((OK, text) if power else absent))
    causes = jetson.throttling(root)
    slowed = jetson.throttled(causes, causes)
    if slowed:
        yield finding("throttling", NOTE, ", ".join(slowed), "let it cool down; check fan and power supply")


def _target(name, row, is_asked) -> Iterator[dict]:
    topic, reason = f"target {name}", probe.unreachable(row)
    if reason is None:
        here = probe.facts(row["runtime"], row.get("device"))
        yield finding(topic, OK, f"{row['runtime']} {here['version']} on {here['device']}")
    else:
        yield finding(topic, MISSING if is_asked else NOTE, reason, _remedy(name, row, reason) if is_asked else None)
    refusal = None if probe.mismatch(row) else power_modes.refusal(row, power_modes.current(probe.SYSTEM), probe.SYSTEM)
    if refusal:
        problem, _, remedy = refusal.partition(": ")
        yield finding(topic, MISSING, problem, remedy)


def _remedy(name, row, reason):
    """Return what makes this machine the target of a row."""
    if "is not installed" not in reason:
        return f"correct the row {name} of `targets`, or run this on its machine (`ssh` in the row: docs/remote.md)"
    if row["runtime"] != "tensorrt":
        return f"{sys.executable} -m pip install {probe.RUNTIMES[row['runtime']].distributions[0]}"
    if probe.jetpack() is None:
        return "docs/tensorrt.md has the packages"
    return "sudo apt-get install python3-libnvinfer, and make a venv with --system-site-packages (docs/jetson.md)"


def _importing(runtime):
    program = f"import {MODULES[runtime]}"
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=120)
    except subprocess.TimeoutExpired:
        return finding(program, MISSING, "not done after 120 s", "end other programs")
    if done.returncode == 0:
        return finding(program, OK, "works")
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"status {done.returncode}"]
    return finding(program, MISSING, lines[-1].strip(), f"`{sys.executable} -c '{program}'` shows all of it")
