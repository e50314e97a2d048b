"""Signatures of the rules' functions: Snakemake asks for them for each job, and inspecting a function takes long."""

from __future__ import annotations

import inspect
from typing import Any

from configuration.tables import Tables


def attach(rules: Any, tables: Tables) -> None:
    """Let each function of inputs, params and resources carry its signature."""
    for rule in rules:
        evaluators = (getattr(resource, "_evaluator", None) for resource in rule.resources.values())  # of Snakemake 9
        functions: Any = filter(callable, (*rule.input, *rule.params, *evaluators))
        for function in functions:
            function.__signature__ = inspect.signature(function)
