"""The closure of a script is all of our code that it can run."""

import ast
import json
import subprocess
import sys

import pytest

import forks
from core import sources
from snakefile.params import code

SCRIPTS = sorted(path for path in sources.ROOT.rglob("*.py"))
# import everything of ours that a script's text names, function bodies included, then tell what was really loaded
LOADER = """
import ast, importlib.util, json, sys
root, first = sys.argv[1], sys.argv[2:]
sys.path.insert(0, root)
pending, seen = [root + "/" + name for name in first], set()
while pending:
    path = pending.pop()
    if path in seen:
        continue
    seen.add(path)
    for node in ast.walk(ast.parse(open(path).read())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module] + [node.module + "." + a.name for a in node.names]
        for name in names:
            spec = None
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError):
                pass
            if spec and spec.origin and spec.origin.startswith(root):
                importlib.import_module(name)
    files = [getattr(m, "__file__", None) or "" for m in list(sys.modules.values())]
    pending += [f for f in files if f.startswith(root) and f not in seen]
print(json.dumps(sorted(path[len(root) + 1:] for path in seen)))
"""


def parsed(path):
    """Return the dotted names that a parser finds in a file's import statements."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(sources.ROOT)))
def test_names_are_those_that_a_parser_finds(path):
    read, known = set(sources._modules(path.read_text())), set(parsed(path))
    assert known <= read
    assert {name for name in read - known if sources._found(name, sources._files(sources.ROOT))} == set()


@pytest.mark.parametrize(
    "scripts",
    [
        ("decode_split.py",),
        ("clean_onnx.py",),
        ("train.py",),
        ("summarize.py",),
        ("evaluate_engine.py", "runtimes/openvino.py"),
        ("build_engine.py", "runtimes/tensorrt_rtx.py"),
    ],
    ids="+".join,
)
def test_closure_is_what_is_really_loaded(scripts):
    python = sys.executable if len(scripts) > 1 else forks.python_with_torch()  # OpenVINO and torch share no process
    command = [python, "-c", LOADER, str(sources.ROOT), *scripts]
    loaded = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    closure = {str(path.relative_to(sources.ROOT)) for path in sources.closure(*scripts)}
    assert set(loaded) <= closure
    assert scripts[0] in closure


def test_code_puts_the_script_first():
    listed = code("train.py")
    assert listed[0] == "workflow_scripts/train.py"
    assert {"workflow_scripts/core/command.py", "workflow_scripts/model/zoo.py"} <= set(listed)
    assert len(listed) == len(set(listed))


def test_meaning_ignores_comments_and_docstrings(tmp_path):
    first, second, third = (tmp_path / name for name in "abc")
    first.write_text('"""A."""\nx = 1\n')
    second.write_text('"""B."""\n# comment\nx  =  1\n')
    third.write_text('"""A."""\nx = 2\n')
    assert sources.code_hash(first) == sources.code_hash(second) != sources.code_hash(third)


def test_a_code_hash_ignores_annotations_of_functions_alone(tmp_path):
    def hash_of(text):
        (tmp_path / "code.py").write_text(text)
        return sources.code_hash(tmp_path / "code.py")

    plain = hash_of("def f(x, *, y=1):\n    return x\n")
    typed = "from __future__ import annotations\ndef f(x: int, *, y: list[int] | None = 1) -> int:\n    return x\n"
    assert hash_of(typed) == plain != hash_of(typed.replace("= 1", "= 2"))
    assert hash_of("class A:\n    x: int = 1\n") != hash_of("class A:\n    x: str = 1\n"), "a field of a dataclass"
