"""Gather the pages of the site in .cache/site: docs/, the guides of the root, and a reference made from the code.

`make docs` runs this, then Zensical. Plain mentions of pages (docs/timing.md) become links.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS, SCRIPTS, SITE = ROOT / "docs", ROOT / "workflow_scripts", ROOT / ".cache/site"
GUIDES = ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
NOT_SHOWN = ("*.py", "*.toml", "__pycache__")
CODE = r"```.*?```|^(?: {4}|\t).*?$|`[^`\n]*`"
MENTION = re.compile(rf"{CODE}|\]\([^)]*\)|(?<![\w/.-])(?:docs/)?([\w./-]+\.md)\b", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!\w+:)([^)#]+)[^)]*\)")
BOUNDS = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}
SHORTENED = {  # functions of rules/common.smk that rules write paths with
    'active("': '"results/{dataset}/',
    'images("{split}")': '"results/{dataset}/data/{model}.{split}.u8"',
}
RUN_BY_RULES = "command().run("
INTRODUCTIONS = {
    "config": "`[]` stands for each item of a list, `NAME` for the name of a row. Editors with a YAML language server "
    "complete and check the file as you type: its first line names the schema.",
    "result": "`[]` stands for each item of a list, `NAME` for a name. A quantity that could not be measured is null.",
}


# Schemas


def resolved(schema, whole):
    """Return a schema with its $ref written out; keys beside the $ref have precedence."""
    if "$ref" not in schema:
        return schema
    _, table, name = schema["$ref"].split("/")
    return {**resolved(whole[table][name], whole), **schema}


def kind(schema, whole):
    """Return what values a schema takes, in words."""
    schema = resolved(schema, whole)
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(each, whole) for each in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    types = schema.get("type", "object")
    words = " or ".join([types] if isinstance(types, str) else types)
    bounds = ", ".join(text.format(schema[key]) for key, text in BOUNDS.items() if key in schema)
    inner = f" of {kind(schema['items'], whole)}" if isinstance(schema.get("items"), dict) else ""
    return f"{words}{inner} {bounds}".strip()


def keys(schema, whole, prefix=""):
    """Yield (path, schema, whether it is required) of each key below a schema, depth first."""
    schema = resolved(schema, whole)
    for each in schema.get("anyOf", ()):
        yield from keys(each, whole, prefix)
    if isinstance(schema.get("items"), dict):
        yield from keys(schema["items"], whole, f"{prefix}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from keys(schema["additionalProperties"], whole, f"{prefix}.NAME" if prefix else "NAME")
    for name, inner in schema.get("properties", {}).items():
        path = f"{prefix}.{name}" if prefix else name
        yield path, resolved(inner, whole), name in schema.get("required", ())
        yield from keys(inner, whole, path)


def cell(text):
    """Return a text as a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def schema_page(name):
    """Return the page of a schema: a section for each key at the top, a row for each key below it."""
    schema = yaml.safe_load((ROOT / f"rules/schemas/{name}.schema.yaml").read_text(encoding="utf-8"))
    lines = [f"# {schema['title']}", "", INTRODUCTIONS.get(name, schema.get("description", "")), ""]
    lines += [f"The schema is `rules/schemas/{name}.schema.yaml`, `{schema['$id']}`.", ""]
    for path, inner, required in keys(schema, schema):
        if path in schema["properties"]:
            lines += ["", f"## {path}", ""]
            lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        default = f"`{json.dumps(inner['default'])}`" if "default" in inner else "required" if required else ""
        cells = [f"`{path}`", kind(inner, schema), default, inner.get("description", "")]
        lines.append(f"| {' | '.join(map(cell, cells))} |")
    return "\n".join(lines) + "\n"


# Commands, rules


def help_of(script):
    """Return what `script --help` prints, run in this process, or its docstring where it has no options."""
    output, before, environment = io.StringIO(), sys.argv, dict(os.environ)
    sys.argv, os.environ["COLUMNS"] = [str(script), "--help"], "100"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
        os.environ.clear()
        os.environ.update(environment)
    text = output.getvalue()
    return (text if "usage: " in text else ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))).rstrip()


def commands_page():
    """Return the page of the targets of make and of every script."""
    targets = re.findall(r"^(\w+):.*?## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    lines = ["# Commands", "", "## make", "", "| target | does |", "| --- | --- |"]
    lines += [f"| `make {name}` | {cell(text)} |" for name, text in targets]
    scripts = sorted(SCRIPTS.glob("*.py"))
    of_rules = [path for path in scripts if RUN_BY_RULES in path.read_text(encoding="utf-8")]
    for title, are_of_rules in (("For people", False), ("Run by rules", True)):
        lines += ["", f"## {title}"]
        for path in (path for path in scripts if (path in of_rules) == are_of_rules):
            lines += ["", f"### {path.name}", "", "```text", help_of(path), "```"]
    return "\n".join(lines) + "\n"


def artifacts_page():
    """Return the page of the rules and of what each writes."""
    spec = importlib.util.spec_from_file_location("rulegraph", DOCS / "rulegraph.py")
    graph = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graph)
    lines = ["# Artifacts and rules", "", "A rule makes one kind of artifact. Logs are in `results/logs/`."]
    file = None
    for name, (owner, body) in sorted(graph.rules().items(), key=lambda item: item[1][0]):
        if owner != file:
            file = owner
            lines += ["", f"## rules/{file}", "", "| rule | writes | what | runs on |", "| --- | --- | --- | --- |"]
        block = re.search(r"^    output:\n((?: {8}.*\n)+)", body, re.MULTILINE)
        text = block[1] if block else ""
        for short, whole in SHORTENED.items():
            text = text.replace(short, whole)
        paths = re.findall(r'"(results/[^"]+)"', text)
        about = re.search(r'"""(.*?)"""', body, re.DOTALL)
        place = "the target" if "device_code(" in body else "the host"
        written = "<br>".join(f"`{path}`" for path in paths)
        lines.append(f"| `{name}` | {written} | {cell(about[1]) if about else ''} | {place} |")
    return "\n".join(lines) + "\n"


# The site


def titles(nav):
    """Yield (page, its title) of a navigation."""
    for entry in nav:
        for title, inner in entry.items():
            yield from [(inner, title)] if isinstance(inner, str) else titles(inner)


TITLES = dict(titles(tomllib.loads((DOCS / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))


def linked(text, page):
    """Return a page's text with plain mentions of other pages as links; page: its path below docs/."""

    def link(match):
        name = match[1]
        if not name or name not in TITLES:
            return match[0]
        return f"[{TITLES[name]}]({os.path.relpath(name, os.path.dirname(page) or '.')})"

    def inner(match):
        place = os.path.normpath(os.path.join(os.path.dirname(page), match[2]))
        return match[1] if place.startswith("..") else match[0]

    text = LINK.sub(inner, text)  # a link to a file of the code stays a text
    return MENTION.sub(link, text).replace("](docs/", "](")


def pages():
    """Return {path below docs/: text} of all pages."""
    found = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}
    found.update({name: (ROOT / name).read_text(encoding="utf-8") for name in GUIDES})
    found = {name: linked(text, name) for name, text in found.items()}
    for name in sorted(path.name.split(".")[0] for path in (ROOT / "rules/schemas").glob("*.schema.yaml")):
        found[f"reference/{name}.md"] = schema_page(name)
    return {**found, "reference/commands.md": commands_page(), "reference/artifacts.md": artifacts_page()}


def main(folder=SITE):
    """Write the site's sources: pages, pictures, Zensical's configuration."""
    sys.path.insert(0, str(SCRIPTS))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, Path(folder) / "docs", ignore=shutil.ignore_patterns(*NOT_SHOWN))
    for name, text in pages().items():
        path = Path(folder) / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copy(DOCS / "zensical.toml", folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
