"""Results are checked against rules/schemas/result.schema.yaml before they are written."""

from __future__ import annotations

from core.files import UserError
from core.sources import ROOT

NAME = "result.schema.yaml"


def check(result: dict) -> None:
    """Raise UserError that names the first place where a result violates its schema."""
    import jsonschema
    import yaml

    schema = yaml.safe_load((ROOT.parent / "rules" / "schemas" / NAME).read_text(encoding="utf-8"))
    violations = jsonschema.Draft7Validator(schema).iter_errors(result)
    first = min(violations, key=lambda error: list(map(str, error.path)), default=None)
    if first:
        where = ".".join(map(str, first.path)) or "the result"
        raise UserError(f"the result violates {NAME}: {where}: {first.message}")
