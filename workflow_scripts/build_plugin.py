"""Compile the TensorRT plugin (plugins/levit_attention) on its target, by its Makefile; describe what it was made with.

Where that is impossible the library is an empty file, the description says why, and engines are built without it; with
`--plugins require` it is an error. A GPU without tensor cores has no library of its own either, unless it is
required.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from core.command import Command, Job, log
from core.files import UserError, write_json
from devices import toolchain

TENSOR_CORES = (7, 0)  # the least compute capability that has them
LIBRARY = "liblevit_attention.so"
LINKED = re.compile(r"\S*/libnvinfer\.so\S*")
ERROR = re.compile(r"^.*(?:\berror\b|\bfatal\b|\bError \d).*$", re.MULTILINE)


def run(args: Job) -> None:
    import runtimes

    runtime = runtimes.load(args.runtime)
    here, made = runtime.fingerprint(), toolchain.facts()
    reason = refusal(here, made, args.plugins) or compile_plugin(args.sources[0], args.plugin, here, loaded_library())
    if reason and args.plugins == "require":
        raise UserError(f"the attention plugin cannot be built: {reason} (or set `plugins: auto` in the target's row)")
    if reason:
        log.warning("engines are built without the attention plugin: %s", reason)
        Path(args.plugin).write_bytes(b"")
    write_json(args.description, {"built": not reason, "reason": reason, "toolchain": made, "fingerprint": here})


def refusal(here: dict, made: dict, wanted: str) -> str | None:
    """Return why a plugin cannot, or by `wanted` (auto, require) should not be compiled, or None.

    here: the runtime's fingerprint; made: the toolchain's facts.
    """
    if not made["nvcc"]:
        return "nvcc is not here: install CUDA's compiler (on a Jetson cuda-nvcc), or name it by NVCC"
    if not made["headers"]:
        folders = f"{', '.join(toolchain.FOLDERS)}: install them (libnvinfer-dev), or name their folder"
        return f"TensorRT's headers are not in {folders} by {toolchain.INCLUDE}"
    if made["headers"].split(".")[:2] != str(here["version"]).split(".")[:2]:
        versions = f"TensorRT's headers are {made['headers']}, and its library is {here['version']}"
        return f"{versions}: install headers of the library's version"
    capability = here["compute_capability"]
    if wanted == "auto" and tuple(map(int, capability.split("."))) < TENSOR_CORES:
        return f"compute capability {capability} has no tensor cores (`plugins: require` builds it all the same)"
    return None


def compile_plugin(makefile: str, target: str, here: dict, linked: str) -> str | None:
    """Compile the plugin to a file; return why that failed, or None. linked: path of libnvinfer."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "NVCC": toolchain.nvcc(),
            "ARCH": here["compute_capability"].replace(".", ""),
            "TENSORRT_INCLUDE": toolchain.include(),
            "TENSORRT_LIB": linked,
            "OUT": folder,
        }
        command = ["make", "-C", os.path.dirname(makefile), *(f"{name}={value}" for name, value in variables.items())]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        except OSError as error:
            return f"make does not start ({error.strerror}): install it"
        output = done.stdout.decode("utf-8", "replace").strip()
        log.info("%s", output)
        if done.returncode:
            return f"make failed: {(ERROR.findall(output) or output.splitlines() or ['it printed nothing'])[0].strip()}"
        Path(target).write_bytes((Path(folder) / LIBRARY).read_bytes())
    return None


def loaded_library() -> str:
    """Return the path of the libnvinfer that this process has loaded; raise UserError without one."""
    match = LINKED.search(Path("/proc/self/maps").read_text(encoding="utf-8"))
    if not match:
        raise UserError("this process has loaded no libnvinfer.so: the installed TensorRT is not one that it knows")
    return match.group()


def command() -> Command:
    c = Command(__file__, __doc__, heavy=True, context=lambda args: toolchain.facts())
    c.modules = lambda args: [f"runtimes/{args.runtime}.py"]
    c.input("--sources", nargs="+", foreign=True, help="the Makefile, then what it compiles")
    c.param("--runtime", required=True, help="a file of runtimes/").json_param("--identity", help="JSON")
    c.param("--plugins", required=True, choices=("auto", "require"))
    c.param("--toolchain", type=json.loads, default=None, help="JSON: what Snakemake has seen of the toolchain here")
    return c.output("--plugin").output("--description")


if __name__ == "__main__":
    command().run(run)
