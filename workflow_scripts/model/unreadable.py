"""Diagnose a file that is not a readable checkpoint: what it is, by its content, and what to do about it."""

import os
import pickletools
import zipfile

SAVE = "in the program that wrote it, save the weights alone: torch.save(model.state_dict(), path)"
STARTS = {  # {first bytes of a file: diagnosis}
    b"": "is empty: copy or download it again",
    b"version https://git-lfs": "is a Git LFS pointer, not the file: git lfs pull fetches it",
    b"\x89HDF": f"is an HDF5 file (Keras): convert it to torch's names and {SAVE}",
    b"\x93NUMPY": f"is a NumPy array: {SAVE}",
    b"\x1f\x8b": "is compressed (gzip): unpack it and name the file in it",
    b"\xfd7zXZ": "is compressed (xz): unpack it and name the file in it",
    b"BZh": "is compressed (bzip2): unpack it and name the file in it",
    b"7z\xbc\xaf": "is a 7-Zip archive: unpack it and name the file in it",
    b"GGUF": f"is a GGUF file: {SAVE}",
    b"\x08": f"may be an ONNX graph, which this project exports itself: {SAVE}",
}
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
MODULES = """
    os posix nt subprocess sys io _io shutil socket importlib runpy pty ctypes webbrowser marshal pickle code codeop pdb
    timeit commands builtins __builtin__ asyncio multiprocessing threading signal tempfile dill cloudpickle joblib types
    inspect operator functools pip site requests urllib http
"""
ALLOWED: tuple[str, ...] = ("torch._utils.", "collections.OrderedDict", "argparse.Namespace")  # prefixes of names
ALLOWED += ("_codecs.encode", "numpy.ndarray", "numpy.dtype", "numpy.core.multiarray.", "numpy._core.multiarray.")
PLAIN = "set frozenset dict list tuple int float complex bool str bytes bytearray slice range object type"
DANGEROUS, HARMLESS = frozenset(MODULES.split()), frozenset(PLAIN.split())  # modules; builtins that are data


def diagnose(path: str | os.PathLike, error: Exception) -> str:
    """Return what a file is and what to do, as the predicate of a sentence; error: of the attempt to read it."""
    with open(path, "rb") as stream:
        head = stream.read(512)
    diagnosis = _by_start(head) or (_of_archive(path) if head.startswith(b"PK") else None)
    if diagnosis:
        return diagnosis
    names = [name for name in _globals_of(path) if not _is_allowed(name)]
    if names:
        return _of_pickle(names, path)
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return f"is not a file of weights, or is a damaged one ({reason}): torch.save(model.state_dict(), path) writes one"


def _by_start(head):
    if head.lstrip().lower().startswith(PAGES):
        return "is a web page, not the file: download it again from the address of the file itself"
    if head.lstrip().startswith(b"{"):
        if b"weight_map" in head or b'"metadata"' in head:
            return f"is the index of a checkpoint in several files: {SAVE}, in one file"
        return f"is JSON, not weights: {SAVE}"
    for start, text in STARTS.items():
        if head.startswith(start) and (start or not head):
            return text
    return None


def _of_archive(path):
    if not zipfile.is_zipfile(path):
        return "is cut short (a zip archive without its end): copy or download it again"
    names = [name.partition("/")[2] or name for name in zipfile.ZipFile(path).namelist()]
    if "constants.pkl" in names:
        return "is a TorchScript archive: torch.save(torch.jit.load(path).state_dict(), other) makes a file of weights"
    if names and all(name.endswith(".npy") for name in names):
        return f"holds NumPy arrays: {SAVE}"
    if "data.pkl" not in names:
        some = ", ".join(names[:3]) or "nothing"
        return f"is a zip archive that torch did not write (it has {some}): unpack it and name the weights in it"
    return None


def _globals_of(path):
    """Return the names (module.name) that a pickle would import, without loading it; [] if it cannot be parsed."""
    try:
        return sorted(_imports(_pickle(path)))
    except (ValueError, OSError, LookupError, zipfile.BadZipFile):
        return []


def _pickle(path):
    if zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    with open(path, "rb") as stream:
        return stream.read()


def _imports(pickled):
    """Return the names that consecutive pickles would import: torch's legacy format has several of them."""
    names, end = _imports_of_one(pickled)
    while pickled[end : end + 1] == b"\x80":
        try:
            more, size = _imports_of_one(pickled[end:])
        except ValueError:  # the tensors follow the pickles, and the size of the first may begin with 128
            break
        names, end = names | more, end + size
    return names


def _imports_of_one(pickled):
    operations = list(pickletools.genops(pickled))
    names, texts = set(), []
    for operation, argument, _ in operations:
        if operation.name in ("GLOBAL", "INST") and argument:
            names.add(argument.replace(" ", "."))
        elif operation.name == "STACK_GLOBAL" and len(texts) > 1:
            names.add(f"{texts[-2]}.{texts[-1]}")
        elif isinstance(argument, str):
            texts.append(argument)
    return names, (operations[-1][2] or 0) + 1


def _is_allowed(name):
    plain = name.startswith(("builtins.", "__builtin__.")) and name.rpartition(".")[2] in HARMLESS
    return plain or name.startswith(ALLOWED) or name.endswith("Storage")


def _is_dangerous(name):
    """Return whether a pickle that imports this name could run arbitrary code."""
    module, _, inner = name.rpartition(".")
    return module.partition(".")[0] in DANGEROUS and inner not in HARMLESS


def _of_pickle(names, path):
    dangerous = [name for name in names if _is_dangerous(name)]
    if dangerous:
        some = ", ".join(dangerous[:3])
        return f"is dangerous: loading it would run code ({some}): refused, do not load it elsewhere"
    trusted = f"import torch; c = torch.load({str(path)!r}, weights_only=False); torch.save(c['state_dict'], 'w.pth')"
    return (
        f"is a pickle with more than weights in it (it imports {', '.join(names[:3])}), which could run code when "
        f'loaded: refused; {SAVE}; or, if you trust its author: python -c "{trusted}"'
    )
