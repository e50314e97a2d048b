"""The files of a bundle: the project's modules as a package of their own, checksums, a reproducible archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from pathlib import Path

from core import sources
from deployment import classify

PACKAGE = "levit"
CLIENT = "classify.py"
HERE = Path(classify.__file__).parent
CPP = "cpp"  # folder of the client in C++, here and in a bundle
ENGINES = {"openvino": "engine_openvino.cpp", "tensorrt": "engine_tensorrt.cpp"}  # runtimes that it has, of others none
HEADING = '"""Modules of LeViT-TensorRT that classify.py uses."""\n'


def client(runtime: str, with_cpp: bool = True) -> dict[str, bytes]:
    """Return {path: content} of the clients for a runtime: classify.py with its modules as PACKAGE, and that in C++."""
    names = sources.names(f"{HERE.name}/{CLIENT}", f"runtimes/{runtime}.py")
    folders = "|".join(sorted({name.split("/")[0] for name in names}))
    texts = {name: (sources.ROOT / name).read_text(encoding="utf-8") for name in names}
    files = {f"{PACKAGE}/{name}": packaged(text, folders) for name, text in texts.items()}
    files[CLIENT] = files.pop(f"{PACKAGE}/{HERE.name}/{CLIENT}")
    return {**files, **(cpp_client(runtime) if with_cpp else {}), f"{PACKAGE}/__init__.py": HEADING.encode()}


def cpp_client(runtime: str) -> dict[str, bytes]:
    """Return {path: content} of the client in C++ for a runtime; none where it has no such client."""
    others = {name for key, name in ENGINES.items() if key != runtime}
    if runtime not in ENGINES:
        return {}
    return {f"{CPP}/{path.name}": path.read_bytes() for path in (HERE / CPP).iterdir() if path.name not in others}


def packaged(source: str, folders: str) -> bytes:
    """Return a module's source with imports from PACKAGE instead of `folders`, alternatives of a pattern."""
    text = re.sub(rf"^(\s*)from ({folders})\b(?= import |\.)", rf"\1from {PACKAGE}.\2", source, flags=re.MULTILINE)
    return re.sub(rf"^(\s*)import ({folders})$", rf"\1from {PACKAGE} import \2", text, flags=re.MULTILINE).encode()


def digest(runtime: str) -> str:
    """Return a hash of the text of everything that a bundle for a runtime takes from the project."""
    files = {**client(runtime), "card.md": (HERE / "card.md").read_bytes()}
    return hashlib.sha256(checksums(files)).hexdigest()


def checksums(files: dict[str, bytes]) -> bytes:
    """Return the text that `sha256sum --check` reads, of {path: content}."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def write(path: str, root: str, files: dict[str, bytes]) -> None:
    """Write a .tar.gz of {path: content} below the folder `root`; equal contents give equal bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size, member.mode = len(files[name]), 0o755 if name == CLIENT else 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    with open(path, "wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as zipped:
        zipped.write(packed.getbuffer())
