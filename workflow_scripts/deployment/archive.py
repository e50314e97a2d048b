"""The files of a bundle: the project's modules as a package of their own, checksums, a reproducible archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from pathlib import Path

from core import sources
from core.files import UserError
from deployment import classify

PACKAGE = "levit"
CLIENT = "classify.py"
PROGRAMS = (CLIENT, "client.py", "serve.py")
HERE = Path(classify.__file__).parent
CPP = "cpp"  # folder of the client in C++, here and in a bundle
ENGINES = {"openvino": "engine_openvino.cpp", "tensorrt": "engine_tensorrt.cpp"}  # runtimes that it has, of others none
HEADING = '"""Modules of LeViT-TensorRT that the program beside this folder uses."""\n'


def client(runtime: str) -> dict[str, bytes]:
    """Return {path: content} of the clients for a runtime: classify.py with its modules, and that in C++."""
    return {**program(CLIENT, CLIENT, runtime), **cpp_client(runtime)}


def program(script: str, name: str, runtime: str | None = None) -> dict[str, bytes]:
    """Return {path: content} of a script of this folder as `name`, with its modules, and a runtime's, as PACKAGE."""
    names = sources.names(f"{HERE.name}/{script}", *([f"runtimes/{runtime}.py"] if runtime else []))
    folders = "|".join(sorted({name.split("/")[0] for name in names}))
    texts = {name: (sources.ROOT / name).read_text(encoding="utf-8") for name in names}
    files = {f"{PACKAGE}/{name}": packaged(text, folders) for name, text in texts.items()}
    files[name] = files.pop(f"{PACKAGE}/{HERE.name}/{script}")
    return {**files, f"{PACKAGE}/__init__.py": HEADING.encode()}


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


def read(path: str) -> dict[str, bytes]:
    """Return {path: content} of the files of a .tar.gz below its folder; raise UserError if it is damaged."""
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
            return {m.name.split("/", 1)[1]: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, zlib.error, IndexError) as error:
        raise UserError(f"{path} is not a whole bundle ({error}): delete it and run again") from None


def write(path: str, root: str, files: dict[str, bytes]) -> None:
    """Write a .tar.gz of {path: content} below the folder `root`; equal contents give equal bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size, member.mode = len(files[name]), 0o755 if name in PROGRAMS else 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    with open(path, "wb") as stream, gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as zipped:
        zipped.write(packed.getbuffer())
