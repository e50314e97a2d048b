"""Imports point one way: each folder of workflow_scripts stands on lower floors, and commands stand on all of them."""

import ast
import graphlib
import re
import sys

import pytest

from conftest import ROOT

SCRIPTS = ROOT / "workflow_scripts"
FLOORS = (
    ("core",),
    ("configuration",),
    ("data", "devices", "graph"),
    ("dla", "model"),
    ("quantization", "runtimes"),
    ("measure",),
    ("deployment", "planning", "reporting"),
    ("snakefile",),
    ("commands",),
)
FLOOR = {folder: number for number, folders in enumerate(FLOORS) for folder in folders}
MODULES = {
    ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SCRIPTS.rglob("*.py")
}
SHARED = {  # rule: the script that it shares
    "download": "fetch_checkpoint",
    "evaluate_onnx": "evaluate_engine",
    "evaluate_typed": "evaluate_engine",
}
TEXT = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
BLOCKS = [block for block in re.split(r"^(?:use )?rule ", TEXT, flags=re.MULTILINE)[1:] if "_code(" in block]


def folder_of(module):
    return module.split(".")[0] if "." in module or MODULES[module].name == "__init__.py" else "commands"


def imported(*trees):
    """Return the modules of workflow_scripts that syntax trees import, in functions as well."""
    names = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & set(MODULES)


def running(tree):
    """Return the statements of a module but those for annotations alone."""
    return [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]


@pytest.fixture(scope="module")
def trees():
    return {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


@pytest.fixture(scope="module")
def imports(trees):
    return {module: imported(tree) - {module} for module, tree in trees.items()}


def test_every_folder_has_a_floor():
    assert {folder_of(module) for module in MODULES} == set(FLOOR)


def test_no_import_points_to_its_own_floor_or_up(imports):
    arrows = {(module, other) for module, others in imports.items() for other in others}
    apart = {arrow for arrow in arrows if folder_of(arrow[0]) != folder_of(arrow[1])}
    assert {arrow for arrow in apart if FLOOR[folder_of(arrow[0])] <= FLOOR[folder_of(arrow[1])]} == set()


def test_no_import_makes_a_cycle(trees):
    packages = {module for module, path in MODULES.items() if path.name == "__init__.py"}
    arrows = {module: imported(*running(tree)) - packages - {module} for module, tree in trees.items()}
    assert len(list(graphlib.TopologicalSorter(arrows).static_order())) == len(MODULES)


def test_no_command_imports_a_command(imports):
    commands = {module for module in MODULES if folder_of(module) == "commands"}
    assert {(command, other) for command in commands for other in imports[command] & commands} == set()


def test_no_module_is_named_as_one_of_the_standard_library():
    assert {path.stem for path in MODULES.values()} & (sys.stdlib_module_names - {"__init__"}) == set()


def test_files_at_the_top_are_commands():
    for path in SCRIPTS.glob("*.py"):
        assert '\nif __name__ == "__main__":\n' in path.read_text(), path.name


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(":")[0])
def test_a_rule_its_script_and_its_log_have_one_name(block):
    rule = block.split(":")[0]
    script = re.search(r'_code\("(\w+)\.py"', block)
    assert script.group(1) == SHARED.get(rule, rule) and " --log {log:q}" in block


def test_every_rule_that_runs_a_script_is_looked_at():
    assert len(BLOCKS) == TEXT.count("    shell:") > 25
