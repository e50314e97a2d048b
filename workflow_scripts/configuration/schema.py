"""The part of JSON Schema that config.schema.yaml uses: check a value, fill in defaults, read strings as numbers.

jsonschema would make a dry run 7 % slower (20 % under Snakemake 7), and neither fills in defaults nor reads
`--config seed=3` as a number. A test holds both to the same verdicts.
"""

from __future__ import annotations

import math
import re

from core.addresses import public
from core.files import UserError
from core.suggest import nearest

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][+-]?[0-9]{1,2})?")  # decimal, finite
WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,18})")
READERS = {  # of each type, a function of text that returns the value or raises ValueError or KeyError
    "integer": lambda text: int(_matching(WHOLE, text)),
    "number": lambda text: float(_matching(NUMBER, text)),
    "boolean": {"true": True, "false": False}.__getitem__,
    "null": {"null": None, "~": None}.__getitem__,
}
UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
TYPES: dict = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
TYPES.update(integer=int, number=(int, float))
BOUNDS = {  # key of a schema: (whether a value keeps to it, what a value does that does not)
    "minimum": (lambda value, bound: value >= bound, "is below {}"),
    "maximum": (lambda value, bound: value <= bound, "is above {}"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "is not above {}"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "is not below {}"),
    "minLength": (lambda value, bound: len(value) >= bound, "is shorter than {}"),
    "uniqueItems": (lambda value, _: not any(x in value[:n] for n, x in enumerate(value)), "names one thing twice"),
    "minItems": (lambda value, bound: len(value) >= bound, "has fewer items than {}"),
    "maxItems": (lambda value, bound: len(value) <= bound, "has more items than {}"),
    "minProperties": (lambda value, bound: len(value) >= bound, "has fewer rows than {}"),
    "enum": (lambda value, allowed: value in allowed, "is none of {}"),
    "pattern": (lambda value, pattern: re.search(pattern, value) is not None, "does not match {}"),
}


def _matching(pattern, text):
    if not pattern.fullmatch(text):
        raise ValueError(text)
    return text


class Invalid(UserError):
    """A value that the schema refuses: where, what and why."""


class Checker:
    """A schema (parsed) that values are checked against."""

    def __init__(self, schema: dict):
        self.schema = schema

    def check(self, value: dict) -> dict:
        """Return a copy of the value with defaults filled in; raise Invalid with the first problem."""
        return self._check(value, self.schema, "")

    def _resolve(self, schema):
        if "$ref" not in schema:
            return schema
        target = self.schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]
        return {**self._resolve(target), **schema}

    def _check(self, value, schema, where):
        schema = self._resolve(schema)
        if "anyOf" in schema:
            return self._any(value, schema["anyOf"], where)
        value = _typed(value, schema.get("type"), where)
        for bound, (holds, _) in BOUNDS.items():
            if bound in schema and not holds(value, schema[bound]):
                raise Invalid(f"{where or 'config.yaml'}: {_shown(value)} {_wanted(bound, schema)}")
        if isinstance(value, dict):
            return self._object(value, schema, where)
        if isinstance(value, list) and "items" in schema:
            return [self._check(item, schema["items"], f"{where}[{i}]") for i, item in enumerate(value)]
        return value

    def _any(self, value, schemas, where):
        problems = []
        for schema in schemas:
            try:
                return self._check(value, schema, where)
            except Invalid as problem:
                problems.append(str(problem))
        raise Invalid("; or ".join(problems))

    def _object(self, value, schema, where):
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        checked = {}
        _check_case(value, where)
        for key, item in value.items():
            path = f"{where}.{_name(key)}" if where else _name(key)
            self._check(key, schema.get("propertyNames", {"type": "string"}), f"the name {path}")
            if key not in properties and rest is False:
                raise Invalid(f"unknown key {path}: {nearest(key, properties)}")
            inner = properties.get(key, rest)
            checked[key] = _plain(item, path) if inner is True else self._check(item, inner, path)
        for key in schema.get("required", ()):
            if key not in value:
                raise Invalid(f"{where or 'config.yaml'}: the key {key} is missing")
        for key, inner in properties.items():
            if key not in checked and "default" in self._resolve(inner):
                path = f"{where}.{key}" if where else key
                checked[key] = self._check(self._resolve(inner)["default"], inner, path)
        return checked


def _typed(value, kinds, where):
    """Return the value as one of the types; strings are read as numbers, because `--config` gives strings."""
    kinds = [kinds] if isinstance(kinds, str) else kinds
    for kind in (kind for kind in kinds if kind in READERS and isinstance(value, str)):
        try:
            return READERS[kind](value)
        except (KeyError, ValueError):
            pass
    for kind in kinds:
        if isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)):
            value = _printable(value, where) if kind == "string" else value
            return _finite(value, where) if kind == "number" else value
    hint = ": put it in quotes" if kinds == ["string"] and isinstance(value, (bool, int, float)) else ""
    raise Invalid(f"{where or 'config.yaml'}: {_shown(value)} is not of type {' or '.join(kinds)}{hint}")


def _name(key):
    return key if isinstance(key, str) and not UNPRINTED.search(key) else repr(key)


def _shown(value):
    text = "nothing" if value is None else repr(public(value) if isinstance(value, str) and "://" in value else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _finite(value, where):
    try:
        if math.isfinite(float(value)):
            return float(value)
    except OverflowError:
        pass
    raise Invalid(f"{where}: {_shown(value)} is not a finite number")


def _printable(text, where):
    if UNPRINTED.search(text):
        raise Invalid(f"{where}: {_shown(text)} holds a line break or another control character: take it out")
    return text


def _check_case(value, where):
    """Raise Invalid where names differ in case alone: many file systems would keep one file for both."""
    folded = {}
    for name in filter(lambda name: isinstance(name, str), value):
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise Invalid(f"{where or 'config.yaml'}: {other} and {name} differ in case alone: rename one")


def _plain(value, where):
    """Return a value with any keys unchanged; raise Invalid where JSON cannot hold it."""
    if isinstance(value, dict):
        names = {key: f"{where}.{_name(key)}" for key in value}
        return {_typed(key, "string", f"the name {path}"): _plain(value[key], path) for key, path in names.items()}
    if isinstance(value, list):
        return [_plain(item, f"{where}[{place}]") for place, item in enumerate(value)]
    if isinstance(value, float):
        return _finite(value, where)
    return _typed(value, ["boolean", "integer", "string", "null"], where) if not isinstance(value, str) else value


def _wanted(bound, schema):
    value = ", ".join(str(item) for item in schema[bound]) if bound == "enum" else schema[bound]
    about = f" ({schema['description']})" if bound == "pattern" and "description" in schema else ""
    return f"{BOUNDS[bound][1].format(value)}{about}"
