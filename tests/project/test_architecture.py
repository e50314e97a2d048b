"""ARCHITECTURE.md and its picture show the project as it is: rules, imports, and the files of one result."""

import ast
import importlib.util
import re

import pytest

from workflow import REPOSITORY, SNAKEMAKE, Workflow

PAGE = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
SCRIPTS = REPOSITORY / "workflow_scripts"
ROWS = re.findall(r"^\| `(\w+)/` \| [^|]* \| ([^|]*) \|$", PAGE, re.MULTILINE)  # of the table of folders
RESULT = "results/LeViT-128S.int8_qat.cpu.json"


@pytest.fixture(scope="module")
def rulegraph():
    spec = importlib.util.spec_from_file_location("rulegraph", REPOSITORY / "docs/rulegraph.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(folder):
    """Return the other folders of workflow_scripts/ that the modules of one import."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    others = {name.split(".")[0] for name in names} - {folder.name}
    return {name for name in others if (SCRIPTS / name).is_dir()}


def test_the_picture_has_the_rules_of_a_result(rulegraph):
    """`make rulegraph` draws it again."""
    titles = re.findall(r"<title>(\w+)(?:&#45;&gt;(\w+))?</title>", rulegraph.PICTURE.read_text(encoding="utf-8"))
    names, edges = rulegraph.graph()
    assert sorted(name for name, other in titles if not other and name != "rules") == names
    assert {pair for pair in titles if pair[1]} <= set(edges)


def test_the_page_names_the_rules_that_the_picture_lacks(rulegraph):
    shown = re.findall(r"<title>(\w+)</title>", rulegraph.PICTURE.read_text(encoding="utf-8"))
    for name in set(rulegraph.rules()) - set(shown):
        assert f"`{name}`" in PAGE


def test_the_table_of_folders_lists_their_imports():
    folders = {path.name for path in SCRIPTS.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    table = {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in ROWS if name in folders}
    assert table == {name: imported(SCRIPTS / name) for name in folders}


def test_imports_point_down_the_table_of_folders():
    order = [name for name, _ in ROWS]
    for name, cell in ROWS:
        for other in re.findall(r"`(\w+)`", cell):
            assert order.index(name) < order.index(other), f"{name}/ imports {other}/"


def test_the_files_of_one_result_are_those_that_snakemake_plans(tmp_path):
    status, output = Workflow.fresh(tmp_path / "run", snakemake=SNAKEMAKE).run("-n", RESULT)
    assert status == 0, output
    planned = re.findall(r"^rule (\w+):\n(?:    (?!output).*\n)*    output: (.*)$", output, re.MULTILINE)
    table = re.findall(r"^\| `(\w+)` \| `(results/[^`]*)` \|", PAGE, re.MULTILINE)
    assert {rule for rule, _ in table} == {rule for rule, _ in planned}
    assert {path for _, path in table} <= {path for _, paths in planned for path in paths.split(", ")}
