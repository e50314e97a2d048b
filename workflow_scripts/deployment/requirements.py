"""A bundle's requirements.txt: the packages of its runtime in the versions that are installed here."""

from __future__ import annotations

import platform

from devices import probe

CLIENT = ("numpy", "pillow")
CUDA = ("cuda-bindings", "cuda-python", "tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu12-libs")  # by runtimes on a GPU


def text(runtime: str, identity: dict) -> str:
    """Return the file's text. identity: of the target."""
    distributions = probe.RUNTIMES[runtime].distributions
    in_jetpack = (identity.get("driver") or "").startswith("L4T")
    names = [*CLIENT, *(() if in_jetpack else distributions[:1]), *(CUDA if "compute_capability" in identity else ())]
    versions = {name: probe.version((name,)) for name in dict.fromkeys(names)}
    lines = [f"# Python {platform.python_version()} on {platform.machine()} made this bundle with:"]
    if in_jetpack:
        system = f"JetPack ({identity['driver']}), which pip does not install"
        lines.append(f"# {runtime} {identity.get('version')} of {system}")
    return "\n".join(lines + [f"{name}=={version}" for name, version in versions.items() if version]) + "\n"
