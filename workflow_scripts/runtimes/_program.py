"""Programs of torch.export: a network's operators and weights, without its Python code, as the bytes of a .pt2 archive.

Equal programs have equal bytes. Loading one runs no pickle: torch.export marks a tensor that it would unpickle, and
such an archive is refused. It is still a program, and torch evaluates the sizes in it as expressions of SymPy: a job
only reads archives whose bytes are those recorded.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from typing import Any

from core.files import UserError
from runtimes import import_library

REMEDY = "install torch 2.9 or later with this Python, as envs/ pins it"
CONFIGURATIONS = "_config.json"  # end of the names of members that say how tensors are stored
CAST = ("to", "_to_copy")  # operators that convert a tensor
CONVERTING = (*CAST, "_assert_tensor_metadata")  # what torch.export writes for a conversion
PLACES = ("stack_trace", "from_node")  # of a node in the Python code it was traced from, with paths of this machine
EXAMPLE = 2  # images of the example; 1 would fix the batch


def library() -> Any:
    """Return torch; raise UserError where it is not installed or cannot write programs."""
    torch = import_library("torch", REMEDY)
    import_library("torch.export", REMEDY)
    return torch


def export(network: Any, size: int, device: str = "cpu") -> Any:
    """Return the ExportedProgram of a module in evaluation mode: float32 [B, 3, size, size] -> logits, for any B."""
    torch = library()
    example = torch.zeros(EXAMPLE, 3, size, size, device=device)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for node in program.graph.nodes:
        for key in PLACES:
            node.meta.pop(key, None)
    return program


def named_as(program: Any, source: Any) -> Any:
    """Return a program whose nodes know the modules that those of the source, which it was traced from, came from.

    Conversions to another type are the program's own; all other operators are the source's, in their order.
    """
    calls = ([node for node in one.graph.nodes if node.op == "call_function"] for one in (program, source))
    new, old = ([node for node in several if operator(node) not in CONVERTING] for several in calls)
    for node, known in zip(new, old) if len(new) == len(old) else ():
        if known.meta.get("nn_module_stack"):
            node.meta["nn_module_stack"] = known.meta["nn_module_stack"]
    return program


def operator(node: Any) -> str:
    """Return the name of a node's operator, without namespace and overload."""
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]


def serialize(program: Any) -> bytes:
    """Return the bytes of a program's .pt2 archive."""
    stream = io.BytesIO()
    library().export.save(program, stream)
    return stream.getvalue()


def load(path: str, data: bytes) -> Any:
    """Return the ExportedProgram of a .pt2 archive's bytes; raise UserError where they are not one, naming `path`."""
    torch = library()
    _refuse_pickles(path, data)
    try:
        return torch.export.load(io.BytesIO(data))
    except Exception as error:  # what torch raises depends on what is wrong
        raise UserError(f"{path}: torch {torch.__version__} cannot load it ({reason(error)}): run again") from None


def reason(error: Exception) -> str:
    """Return an exception's first line with words, as one line of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:300]


def _refuse_pickles(path, data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            named = [name for name in archive.namelist() if name.endswith(CONFIGURATIONS)]
            if not named:
                raise ValueError("no tensors")
            stored = [entry for name in named for entry in json.loads(archive.read(name))["config"].values()]
            pickled = any(entry["use_pickle"] for entry in stored)
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, TypeError, AttributeError, EOFError):
        raise UserError(f"{path} is not a whole archive of torch.export: delete it and run again") from None
    if pickled:
        raise UserError(f"{path} has pickled tensors, which can run code when they are read: export the network again")
