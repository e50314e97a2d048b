"""Configuration files as text: refuse, with its line, what YAML reads as something other than it looks like.

Snakemake's own reader takes the last of two equal keys, reads 010 as 8 and 12:30 as 750, and prints a traceback for
bytes that are not UTF-8; so the text is checked first. schema.py checks what the keys mean.
"""

from __future__ import annotations

import json
import os
import re

from core.files import UserError

MAIN = "config.yaml"
CORE = "tag:yaml.org,2002:"
PLAIN = {CORE + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge", "value")}
MISREAD = {  # kind of value: (what its text looks like, why it is refused)
    "timestamp": (r".", "YAML reads a date"),
    "int": (r"[-+]?0[0-7_]+$|.*:", "YAML reads a number to the base 8 or 60"),
    "float": (r".*:|[-+]?[.](?:nan|inf)$", "it is not a finite decimal number"),
}
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
MOST = 100_000  # values in a file once its aliases are written out
SETS_CONFIG = ("--config", "-C")  # options of Snakemake that take key=value


def check_all(more: list[str], arguments: list[str]) -> None:
    """Raise UserError for what YAML misreads in config.yaml, --configfile's files (`more`) or on the command line."""
    for path in more if more and not os.path.exists(MAIN) else [MAIN, *more]:
        check(path)
    option = ""
    for argument in arguments:
        if argument.startswith("-"):
            option = argument
        elif option in SETS_CONFIG and "=" in argument:
            key, _, value = argument.partition("=")
            check_text(value, f"--config {key}", written=False)


def check(path: str | os.PathLike) -> None:
    """Raise UserError where a configuration file is not readable as UTF-8, is not YAML, or is misread as YAML."""
    if not os.path.exists(path):
        raise UserError(f"{path} is not there: the tables are read from it, in the folder that snakemake runs in")
    if not os.path.isfile(path):
        raise UserError(f"{path} is not a file")
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8: save it as UTF-8") from None
    check_text(text, str(path))


def check_text(text: str, name: str, written: bool = True) -> None:
    """Raise UserError where a YAML text is misread; `written` texts are files: tables, with YAML 1.1's types."""
    import yaml

    control = CONTROLS.search(text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise UserError(f"{name}, line {line}: the character {control.group()!r} does not belong in text: take it out")
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError) as error:
        if written and _is_json(text, name):
            return
        raise UserError(f"{name}{_place(error)}: not YAML: {_problem(error)}") from None
    if written and not isinstance(root, yaml.MappingNode):
        raise UserError(f"{name}: not a table: give `key: value` lines, as the config.yaml that came with this project")
    if root is not None:
        _Walk(name, written).size(root, "")


def _is_json(text, name):
    """Return whether a text that is not YAML is JSON (with tabs, say); raise UserError for a duplicate key."""

    def table(pairs):
        keys = [key for key, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{name}: the key {key} is there {keys.count(key)} times: rename or remove one")
        return dict(pairs)

    try:
        json.loads(text, object_pairs_hook=table)
    except (ValueError, RecursionError):
        return False
    return True


def _place(error):
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark else ""


def _problem(error):
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None))))
    return " ".join((text or getattr(error, "reason", None) or str(error)).split())


class _Walk:
    """One walk over the nodes of a YAML text."""

    def __init__(self, name, written):
        self.name, self.written, self.sizes, self.open = name, written, {}, set()

    def size(self, node, where):
        """Return how many values a node is once aliases are written out; raise UserError where one is misread."""
        if id(node) in self.open:
            self._refuse(node, f"{where} holds itself by an alias")
        if id(node) not in self.sizes:
            self.open.add(id(node))
            self.sizes[id(node)] = 1 + self._inside(node, where)
            self.open.remove(id(node))
        if self.sizes[id(node)] > MOST:
            self._refuse(node, f"{where or 'it'} is more than {MOST} values once its aliases are written out")
        return self.sizes[id(node)]

    def _inside(self, node, where):
        if isinstance(node.value, str):
            return self._check_scalar(node, where) or 0
        if node.tag not in PLAIN:
            self._refuse(node, f"{where}: {_short(node.tag)} is not a type of a configuration")
        if node.tag == CORE + "seq":
            return sum(self.size(item, f"{where}[{place}]") for place, item in enumerate(node.value))
        return self._table(node, where)

    def _table(self, node, where):
        lines, total = {}, 0
        for key, value in node.value:
            if not isinstance(key.value, str):
                self._refuse(key, f"a key of {where or 'the file'} is not text")
            path = f"{where}.{key.value}" if where else key.value
            self._check_scalar(key, f"the name {path}")
            if key.value in lines:
                where = f"lines {lines[key.value]} and {key.start_mark.line + 1}" if self.written else "given twice"
                raise UserError(f"{self.name}: the key {path} is there twice ({where}): rename or remove one")
            lines[key.value] = key.start_mark.line + 1
            if key.tag == CORE + "merge" and isinstance(value.value, str):
                self._refuse(value, f"{path}: {value.value} is not a table to merge")
            total += self.size(value, path)
        return total

    def _check_scalar(self, node, where):
        """Raise UserError where a scalar's type is not what its text looks like; on a command line all are texts."""
        if not self.written:
            return
        kind = _short(node.tag)
        pattern, reason = MISREAD.get(kind, ("(?!)", ""))
        if not node.style and re.match(pattern, node.value, re.IGNORECASE):
            self._refuse(node, f"{where}: {node.value}: {reason}: write a decimal number, or quotes around a name")
        if node.tag not in PLAIN and kind not in MISREAD:
            self._refuse(node, f"{where}: {kind} is not a type of a configuration")

    def _refuse(self, node, problem):
        raise UserError(f"{self.name}, line {node.start_mark.line + 1}: {problem}")


def _short(tag):
    return tag[len(CORE) :] if tag.startswith(CORE) else tag
