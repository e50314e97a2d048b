"""Signatures of the rules' functions: Snakemake asks for them for each job, and inspecting a function takes long."""

from __future__ import annotations

import inspect
from typing import Any

from configuration.tables import Tables


def attach(rules: Any, tables: Tables) -> None:
    """Let each function of inputs and params carry its signature, which a dry run of many jobs is a tenth faster by."""
    for rule in rules:
        functions: Any = filter(callable, (*rule.input, *rule.params))
        for function in functions:
            function.__signature__ = inspect.signature(function)
