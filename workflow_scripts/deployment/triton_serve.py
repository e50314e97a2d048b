"""Serve the folder `models` beside this file by the tritonserver in the wheel nvidia-pytriton: Linux, no GPU needed.

    python3 -m pip install -r requirements.txt && python3 -m pip install --no-deps nvidia-pytriton
    python3 serve.py [--http-port=8000 ...]        tritonserver's own arguments

The wheel has Triton's Python backend alone: NVIDIA's container has those for TensorRT and ONNX Runtime.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
STUB = "triton_python_backend_stub"


def server() -> Path:
    """Return the wheel's folder of tritonserver."""
    package = importlib.util.find_spec("pytriton")
    if package is None or not package.submodule_search_locations:
        sys.exit("error: nvidia-pytriton is not installed: python3 -m pip install --no-deps nvidia-pytriton")
    return Path(package.submodule_search_locations[0], "tritonserver")


def backends(source: Path) -> Path:
    """Return a folder of the server's backends, with the process of this Python's version in it."""
    stub = source / "python_backend_stubs" / "{}.{}".format(*sys.version_info) / STUB
    if not stub.exists():
        sys.exit(f"error: this nvidia-pytriton has no backend for Python {sys.version.split()[0]}: use another Python")
    folder = HERE / "backends"
    shutil.copytree(source / "backends", folder, dirs_exist_ok=True)
    shutil.copy(stub, folder / "python" / STUB)
    return folder


def main() -> None:
    """Become the server, whose processes take the packages of the first `python3` on PATH."""
    source = server()
    libraries = [sysconfig.get_config_var("LIBDIR"), str(source.parents[1] / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
    }
    arguments = [f"--model-repository={HERE / 'models'}", f"--backend-directory={backends(source)}", *sys.argv[1:]]
    program = str(source / "bin/tritonserver")
    os.chmod(program, 0o755)
    os.execve(program, [program, *arguments], environment)


if __name__ == "__main__":
    main()
