"""The part of JSON Schema that config.schema.yaml uses: check a value, fill in defaults, read strings as numbers.

jsonschema would cost every dry run its import, and neither fills in defaults nor reads `--config seed=3` as a number.
A test holds both to the same verdicts. Standard library only, Python 3.8.
"""

import difflib
import re

from files import UserError

READERS = {"integer": int, "number": float, "boolean": {"true": True, "false": False}.__getitem__}
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
BOUNDS = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "minItems": lambda value, bound: len(value) >= bound,
    "maxItems": lambda value, bound: len(value) <= bound,
    "minProperties": lambda value, bound: len(value) >= bound,
    "enum": lambda value, allowed: value in allowed,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
}


class Invalid(UserError):
    """A value that the schema refuses: where, what and why."""


def nearest(name, names):
    """Return the names close to a misspelt one as a question, or all the names there are."""
    close = difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(names)) or 'none'}"


class Checker:
    """A schema (parsed) that values are checked against."""

    def __init__(self, schema):
        self.schema = schema

    def check(self, value):
        """Return a copy of the value with defaults filled in; raise Invalid with the first thing that is wrong."""
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
        for bound, holds in BOUNDS.items():
            if bound in schema and not holds(value, schema[bound]):
                raise Invalid(f"{where or 'config.yaml'}: {value!r} {_wanted(bound, schema)}")
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
        for key, item in value.items():
            path = f"{where}.{key}" if where else str(key)
            if "propertyNames" in schema:
                self._check(key, schema["propertyNames"], f"the name {path}")
            if key not in properties and rest is False:
                raise Invalid(f"unknown key {path}: {nearest(key, properties)}")
            inner = properties.get(key, rest)
            checked[key] = item if inner is True else self._check(item, inner, path)
        for key in schema.get("required", ()):
            if key not in value:
                raise Invalid(f"{where or 'config.yaml'}: the key {key} is missing")
        for key, inner in properties.items():
            if key not in checked and "default" in self._resolve(inner):
                path = f"{where}.{key}" if where else key
                checked[key] = self._check(self._resolve(inner)["default"], inner, path)
        return checked


def _typed(value, kinds, where):
    """Return the value as one of the types; numbers may come as strings, because `--config` gives strings."""
    kinds = [kinds] if isinstance(kinds, str) else kinds or list(TYPES)
    for kind in kinds:
        if isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)):
            return float(value) if kind == "number" else value
    for kind in kinds:
        if isinstance(value, str) and kind in READERS:
            try:
                return READERS[kind](value)
            except (KeyError, ValueError):
                pass
    hint = ": put it in quotes" if kinds == ["string"] else ""
    raise Invalid(f"{where or 'config.yaml'}: {value!r} is not of type {' or '.join(kinds)}{hint}")


def _wanted(bound, schema):
    text = {"enum": "is none of", "pattern": "does not match", "minimum": "is below", "maximum": "is above"}
    value = ", ".join(str(item) for item in schema[bound]) if bound == "enum" else schema[bound]
    about = f" ({schema['description']})" if bound == "pattern" and "description" in schema else ""
    return f"{text.get(bound, f'breaks {bound}')} {value}{about}"
