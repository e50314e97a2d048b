"""The modules of this project that a script imports, found in its source, and hashes of code.

Rules list this closure as inputs and the store hashes it: both see exactly the code that a job can run.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([^\n#;]+))", re.MULTILINE
)
TOOLS = re.compile(r"\btools ?= ?\(([^)]*)\)")  # what a Command declares (core/command.py)
TRAINED = re.compile(r"\btrained ?= ?True")  # the same
NO_EFFECT = ("ctx", "kind", "returns")  # fields of a syntax tree that do not change what code does
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.lru_cache(maxsize=None)
def _files(root):
    found = ((folder, name) for folder, _, names in os.walk(root) for name in names if name.endswith(".py"))
    start = len(os.path.join(root, ""))  # os.path.relpath of each took most of the time
    return {os.path.join(folder, name)[start:] for folder, name in found}


def _found(name, files):
    stem = name.replace(".", "/")
    return [path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in files]


def _modules(source):
    """Yield the dotted names that imports may refer to; no parser reads them, since each start reads every script."""
    for module, names, plain in IMPORT.findall(source):
        if plain:
            yield from (words[0] for words in map(str.split, plain.split(",")) if words)
        else:
            yield module
            lines = (line.split("#")[0] for line in names.strip("()").splitlines())
            yield from (f"{module}.{words[0]}" for words in map(str.split, " ".join(lines).split(",")) if words)


@functools.lru_cache(maxsize=None)
def _direct(root, path):
    files = _files(root)
    paths = {each for name in _modules(_text(root, path)) for each in _found(name, files)}
    return paths | files.intersection(os.path.dirname(each) + "/__init__.py" for each in paths)


def names(*scripts: str) -> list[str]:
    """Return scripts and the project modules that they import, sorted; all are relative to workflow_scripts/."""
    pending, closed = list(scripts), set()
    while pending:
        path = pending.pop()
        if path not in closed:
            closed.add(path)
            pending.extend(_direct(ROOT, path))
    return sorted(closed)


def closure(*scripts: str | Path) -> list[Path]:
    """Return the same as absolute paths."""
    return [ROOT / name for name in names(*map(str, scripts))]


def tools(paths: Iterable[str]) -> set[str]:
    """Return the distributions that commands declare as tools; paths of source files relative to the repository."""
    lists = (text for path in paths for text in TOOLS.findall(_text(ROOT.parent, path)))
    return set(re.findall(r"[\w-]+", " ".join(lists)))


def is_training(path: str) -> bool:
    """Return whether the command in a script (a path from the repository's root) declares that it trains."""
    return bool(TRAINED.search(_text(ROOT.parent, path)))


def text_hash(paths: Iterable[str]) -> str:
    """Return a hash of the text of source files, paths relative to the repository: every edit counts."""
    lines = (f"{path} {_text_digest(ROOT.parent, path)}\n" for path in sorted(paths))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@functools.lru_cache(maxsize=None)
def _text_digest(folder, path):
    return hashlib.sha256(_text(folder, path).encode()).hexdigest()


@functools.lru_cache(maxsize=None)
def _text(folder, path):
    try:
        with open(os.path.join(folder, path), encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def code_hash(path: str | Path) -> str:
    """Return a hash of what a module does: it ignores comments, docstrings and annotations of functions.

    Annotations of variables count, since they declare the fields of dataclasses and named tuples. The hash is equal
    on Python 3.8 to 3.13, because hosts and boards share stores.
    """
    tree = ast.parse(Path(path).read_text(encoding="utf-8"), str(path))
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()


def _plain(node):
    """Return a syntax tree as lists, without what has no effect and what differs between versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node if getattr(item, "module", None) != "__future__"]
    if not isinstance(node, ast.AST):
        return node
    kind = type(node).__name__
    if isinstance(node, ast.arg):
        return [kind, node.arg]
    if kind == "Index":  # 3.8 wraps subscripts
        return _plain(vars(node)["value"])
    if kind == "ExtSlice":
        return ["Tuple", ["elts", _plain(vars(node)["dims"])]]
    fields = [(name, getattr(node, name, None)) for name in sorted(node._fields) if name not in NO_EFFECT]
    if isinstance(node, DOCUMENTED):
        fields = [(name, _undocumented(value) if name == "body" else value) for name, value in fields]
    if isinstance(node, ast.JoinedStr):  # 3.12 adds an empty constant to some
        fields = [("values", [part for part in node.values if getattr(part, "value", None) != ""])]
    return [kind, *([name, _plain(value)] for name, value in fields if value is not None and value != [])]


def _undocumented(body):
    first = body[0].value if body and isinstance(body[0], ast.Expr) else None
    documented = isinstance(first, ast.Constant) and isinstance(first.value, str)
    return body[1:] if documented else body
