"""What follows from a rule's names: its log, the flags of its files, and the start of its command line on a target.

Each rule that runs a script gets the log `results/logs/{dataset}/RULE.{wildcards}.log` and the param `files` (a named
input or output is the flag of this name; an unnamed input has none). A rule whose jobs run on their targets gets the
param `device` and the resources of boards (reach.slots) as well. None of them makes a job stale.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from configuration.tables import Tables
from devices import reach
from snakefile.rule_facts import code_files, device_purpose, is_timed
from snakefile.staleness import Untracked


def attach(rules: Any, tables: Tables) -> None:
    """Add the log, the params and the resources to each rule that runs a script."""
    boards = {name: _units(units) for name, (_, units) in reach.slots(tables).items()}
    for rule in rules:
        inputs = dict(rule.input.items())
        if "code" in inputs:
            rule.log_modifier = rule.output_modifier  # Snakemake sets it where a rule has a log of its own
            rule.set_log(_log(rule.name, str(rule.output[0])))
            rule.set_params(files=_files(inputs))
            if device_purpose(rule):
                rule.set_params(device=_device(rule, tables))
                rule.resources.update(boards)


def _units(units):
    return lambda wildcards: units.get(wildcards.target, 0)


def _log(name, output):
    wildcards = re.findall(r"\{(\w+)", output)
    folder = "results/logs/{dataset}" if "dataset" in wildcards else "results/logs"
    return ".".join([f"{folder}/{name}", *(f"{{{each}}}" for each in wildcards if each != "dataset"), "log"])


def _files(inputs) -> Callable:
    named = {name: item.named for name, item in inputs.items() if hasattr(item, "named")}

    def files(wildcards, input, output):
        users = {name: of(wildcards) for name, of in named.items()}
        values = {**dict(input.items()), **users, **dict(output.items())}
        return Untracked(" ".join(_flag(name, value) for name, value in values.items() if value and name != "code"))

    return files


def _flag(name, value):
    paths = _quoted([value] if isinstance(value, str) else value)
    return f"--{name.replace('_', '-')}{' ' if ' ' in paths else '='}{paths}"


def _device(rule, tables) -> Callable:
    """Return a function that gives an interpreter, or run_on_board.py for a board.

    It takes `input` so that Snakemake treats the value as derived: a board's address must not invalidate artifacts.
    """

    def device(wildcards, input, output):
        target = wildcards.target
        if not reach.board(tables, target):
            return Untracked(f'"$LEVIT_PYTHON_{target}"')
        start = f'"$LEVIT_PYTHON" workflow_scripts/run_on_board.py --board "$LEVIT_BOARD_{target}"'
        start += f" --home {wildcards.dataset}.{wildcards.model}" if is_timed(rule) else ""  # what is compared
        needed = [*input, *code_files(rule, wildcards)]
        return Untracked(f"{start} --inputs {_quoted(needed)} --outputs {_quoted(output)} --")

    return device


def _quoted(paths: Iterable[str]) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)
