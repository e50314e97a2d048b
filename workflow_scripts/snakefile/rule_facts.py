"""Facts about the rules, read from the rules themselves: where a rule runs, and what its output tells.

The input `code` of a rule says where it runs: `device_code` on its target, `result_code` wherever results are gathered,
`host_code` on the host alone (rules/common.smk).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from core import sources


def device_purpose(rule: Any) -> str | None:
    """Return what a rule does with its target, `build` or `run` engines, or None where it does not run there."""
    return getattr(_code(rule), "purpose", None)


def is_host_built(rule: Any) -> bool:
    """Return whether only the host makes what a rule does: it is not a job of a target and gathers no results."""
    return getattr(_code(rule), "on_host", False)


def is_training(rule: Any) -> bool:
    """Return whether a rule's command declares that it trains (core/command.py)."""
    code = _code(rule)
    return code is not None and sources.is_training(code(None)[0])


def is_result(rule: Any) -> bool:
    """Return whether a rule writes a result, which tells whether budgets and criteria are met."""
    return hasattr(rule.output, "result")


def code_files(rule: Any, wildcards: Any) -> list[str]:
    """Return the paths of a rule's script and of all project modules that it imports."""
    return _code(rule).files(wildcards)


def is_timed(rule: Any) -> bool:
    """Return whether a rule's numbers depend on the power mode: it is among the keys that decide the rule."""
    return "power_mode" in getattr(getattr(rule.params, "options", None), "keys", ())


def needs(rule: Any) -> str:
    """Return the key that a precision's row must have for a rule to make sense, or ""."""
    return getattr(getattr(rule.params, "options", None), "needs", "")


def makers(path: str, rules: Any) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield each rule that makes a file, with its wildcards."""
    for rule in rules:
        for match in filter(None, (product.match(path) for product in rule.output)):
            yield rule, match.groupdict()


def _code(rule):
    return dict(rule.input.items()).get("code")
