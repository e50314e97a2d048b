"""Which of our own modules a script imports, read from its source: standard library only.

The rules list this closure as inputs, and the store hashes it, so both see exactly the code that a job can run.
"""

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def _candidates(name):
    path = ROOT.joinpath(*name.split("."))
    return [path.with_suffix(".py"), path / "__init__.py"]


def _modules(tree):
    """Yield every dotted name that an import statement anywhere in the tree could mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.lru_cache(maxsize=None)
def _direct(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    found = {c for name in _modules(tree) for c in _candidates(name) if c.is_file()}
    return found | {init for c in found for init in [c.parent / "__init__.py"] if init.is_file()}


def closure(*scripts):
    """Return the scripts (relative to workflow_scripts/) and all they import of ours, as sorted Paths."""
    pending, seen = [ROOT / script for script in scripts], set()
    while pending:
        path = pending.pop()
        if path not in seen:
            seen.add(path)
            pending.extend(_direct(path))
    return sorted(seen)


def _without_docstrings(tree):
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                body[0] = ast.Pass()
    return tree


def meaning(path):
    """Return a hash of what a module does: comments, blank lines and docstrings do not count."""
    tree = _without_docstrings(ast.parse(Path(path).read_text(encoding="utf-8"), str(path)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
