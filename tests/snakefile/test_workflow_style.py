"""What keeps the workflow readable: lint, format, lengths, and a parse that imports nothing heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workflow import REPOSITORY, Workflow

BIN = Path(sys.executable).parent
RULE = re.compile(r"^rule (\w+):\n((?:[ ]+.*\n|\n(?=[ ]))*)", re.MULTILINE)
# folders whose public functions are all annotated ("." is the commands)
LINT = re.search(r"^lint:.*\n((?:\t.+\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE).group(1)
# what `snakemake --lint` may say, and why that is right here
ALLOWED = {
    "Specify a conda environment or container for each rule.": "`make env` installs one environment with exact pins, "
    "and a device has the runtime of its system image, which no environment can bring",
}


def rules():
    return [
        (path, *found)
        for path in sorted((REPOSITORY / "rules").glob("*.smk"))
        for found in RULE.findall(path.read_text())
    ]


def test_snakefile_is_short():
    assert len((REPOSITORY / "Snakefile").read_text().splitlines()) <= 60


def test_rules_are_short_and_explained():
    assert len(rules()) >= 18
    for path, name, body in rules():
        assert len(body.rstrip("\n").splitlines()) + 1 <= 25, f"{path.name}: rule {name} is too long"
        assert body.lstrip().startswith('"""'), f"{path.name}: rule {name} has no docstring"


def test_rules_that_run_code_have_it_as_input():
    for path, name, body in rules():
        if "shell:" in body:
            assert re.search(r"^        code=(\w+_)?code\(", body, re.MULTILINE), f"{path.name}: rule {name}"
            assert " --log {log:q}" in body, f"{path.name}: rule {name}"


def test_only_tables_are_branched_on():
    for path in [REPOSITORY / "Snakefile", *(REPOSITORY / "rules").glob("*.smk")]:
        assert not re.search(r"\bif\s+\w*\.?(model|precision|target|dataset)\s*==", path.read_text()), path


@pytest.mark.parametrize("command", re.findall(r"^\t\$\(BIN\)/(.+)", LINT, re.MULTILINE))
def test_make_lint(command):
    program, *arguments = command.split()
    done = subprocess.run([BIN / program, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_snakemake_lint_says_only_what_is_allowed(tmp_path):
    _, output = Workflow.fresh(tmp_path / "lint").run("--lint")
    said = set(re.findall(r"^    \* (.*):$", output, flags=re.MULTILINE))
    assert said == set(ALLOWED), output


def public_functions(body):
    """Yield the functions and methods that a module's or class's body offers to others."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body)


def is_annotated(function):
    known = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    known += filter(None, (function.args.vararg, function.args.kwarg))
    names = [argument.arg for argument in known if argument.annotation is None and argument.arg not in ("self", "cls")]
    return function.returns is not None and not names


def test_public_functions_are_annotated():
    for path in sorted((REPOSITORY / "workflow_scripts").rglob("*.py")):
        bare = [node.name for node in public_functions(ast.parse(path.read_text()).body) if not is_annotated(node)]
        assert not bare, f"{path}: annotate the arguments and the result of {', '.join(bare)}"


def test_parsing_needs_the_standard_library_alone():
    program = "import sys; sys.path.insert(0, 'workflow_scripts'); from snakefile import params, run_checks, staleness"
    command = [sys.executable, "-I", "-S", "-c", program]  # -S: no installed package can be imported
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_path_or_index_of_a_machine_is_in_the_repository():
    forbidden = re.compile(r"index-url|pypi\.|files\.pythonhosted|/root/|/home/\w")
    listed = [REPOSITORY / name for name in ("Snakefile", "Makefile", "config.yaml", "pyproject.toml")]
    for folder in ("rules", "profiles", "envs"):
        listed += [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    for path in listed:
        assert not forbidden.search(path.read_text()), path
