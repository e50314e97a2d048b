"""Which of our own modules a script imports, read from its source: standard library only.

The rules list this closure as inputs, and the store hashes it, so both see exactly the code that a job can run.
"""

import ast
import functools
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([^\n#;]+))", re.MULTILINE
)


def _candidates(name):
    path = ROOT.joinpath(*name.split("."))
    return [path.with_suffix(".py"), path / "__init__.py"]


def _modules(source):
    """Yield every dotted name that an import statement anywhere in a source text could mean.

    Read line by line and not parsed: Snakemake asks this of every script whenever it starts.
    """
    for module, names, plain in IMPORT.findall(source):
        if plain:
            yield from (words[0] for words in map(str.split, plain.split(",")) if words)
        else:
            yield module
            lines = (line.split("#")[0] for line in names.strip("()").splitlines())
            yield from (f"{module}.{words[0]}" for words in map(str.split, " ".join(lines).split(",")) if words)


@functools.lru_cache(maxsize=None)
def _direct(path):
    found = {c for name in _modules(path.read_text(encoding="utf-8")) for c in _candidates(name) if c.is_file()}
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
                body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return tree


def meaning(path):
    """Return a hash of what a module does: comments, blank lines and docstrings do not count."""
    tree = _without_docstrings(ast.parse(Path(path).read_text(encoding="utf-8"), str(path)))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
