"""The recipes of CONTRIBUTING.md, followed as they are written in a copy of the workflow."""

import re

import yaml

from workflow import REPOSITORY

PASSES, PROBE = "workflow_scripts/graph/passes.py", "workflow_scripts/devices/probe.py"


def blocks(language):
    """Return the texts of the page's blocks in a language."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def follow(workflow):
    """Add the page's rows, runtime and pass to a workflow."""
    add_rows(workflow)
    runtime, surgeon_pass = blocks("python")
    add_runtime(workflow, runtime)
    add_pass(workflow, surgeon_pass)


def add_rows(workflow):
    """Add the rows of each YAML block to config.yaml."""

    def add(config):
        for block in blocks("yaml"):
            for table, rows in yaml.safe_load(block).items():
                config[table].update(rows)

    workflow.config(add)


def add_runtime(workflow, row):
    """Add a runtime whose file is that of ONNX Runtime."""
    name = re.match(r' *"(\w+)"', row)[1]
    text = workflow.path("workflow_scripts/runtimes/onnxruntime.py").read_text(encoding="utf-8")
    text = text.replace('NAME = "onnxruntime"', f'NAME = "{name}"')
    workflow.path(f"workflow_scripts/runtimes/{name}.py").write_text(text, encoding="utf-8")
    workflow.edit(PROBE, "RUNTIMES = {\n", f"RUNTIMES = {{\n{row}")


def add_pass(workflow, function):
    """Add a pass to the code, to the schema and, as the first one, to a row of `graphs`."""
    name = re.match(r"def (\w+)", function)[1]
    workflow.edit(PASSES, "FOLDING = (", f"{function}\n\nFOLDING = ({name}, ")
    workflow.edit(
        "rules/schemas/config.schema.yaml", "      - fold_constants\n", f"      - fold_constants\n      - {name}\n"
    )
    workflow.config(lambda config: config["graphs"]["cpu"]["passes"].insert(0, name))
