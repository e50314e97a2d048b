"""Check that every target with pending jobs (local or over ssh) matches its row."""

from __future__ import annotations

import os
import sys

from configuration.tables import Tables
from core.files import UserError, read_json, write_json
from devices import reach
from snakefile import nodes, restart

STARTED_OVER = "LEVIT_STARTED_OVER"


def check(purposes: dict[str, list[str]], tables: Tables) -> None:
    """Raise UserError with a line for each target that cannot do what its jobs need: {target: [`build`, `run`]}.

    Where a board's identity has changed, record it and start Snakemake again: staleness depends on it.
    """
    boards = {target: board for target in purposes for board in [reach.board(tables, target)] if board}
    problems = [text for target in purposes if target not in boards for text in _here(target, purposes, tables)]
    answers = _ask(boards, purposes, tables) if boards else {}
    problems += [text for target, reports in answers.items() for text in _unable(target, reports)]
    if problems:
        raise UserError("\nerror: ".join(problems))
    changed = [target for target, reports in answers.items() if _record(target, _common(target, reports))]
    unknown = [t for t in purposes if tables.row("target", t).get("slurm") and _recorded(t) is None]
    changed += [target for target in unknown if _record(target, nodes.identity(tables, target))]
    if changed:
        _start_over(changed)


def _here(target, purposes, tables):
    row = tables.row("target", target)
    reasons = {purpose: reach.ask(row, "unreachable", purpose) for purpose in purposes[target]}
    problems = [(purpose, reason) for purpose, reason in reasons.items() if reason]
    return [f"this machine cannot {what} engines of the target {target}: {why}" for what, why in problems[:1]]


def _ask(boards, purposes, tables):
    """Return {target: {name of a board: (its ssh destination, its report)}}."""
    from devices import rack, survey  # not while parsing

    rows = {(target, each["name"]): each for target, board in boards.items() for each in rack.rows(board)}
    reports = survey.survey({key: (tables.row("target", key[0]), purposes[key[0]], row) for key, row in rows.items()})
    answers = {target: {} for target in boards}
    for key, row in rows.items():
        answers[key[0]][key[1]] = row["ssh"], reports[key]
    return answers


def _unable(target, reports):
    if not all(answer["reason"] for _, answer in reports.values()):
        return []
    return [
        f"{ssh} cannot {answer['purpose']} engines of the target {target}: {answer['reason']}"
        for ssh, answer in reports.values()
    ]


def _common(target, reports):
    """Return the identity of a target's boards; exclude boards that are down or differ, with a warning for each."""
    from devices import rack

    answers = [answer for _, answer in reports.values()]
    common, reasons = rack.alike(answers, _recorded(target))
    left_out = {name: reason for name, reason in zip(reports, reasons) if reason}
    rack.start(target, [reports[name][0] for name in left_out])
    lines = [f"{name} ({reports[name][0]}) is left out: {reason}" for name, reason in left_out.items()]
    states = {name: answer["state"] for name, (_, answer) in reports.items() if name not in left_out}
    lines += [f"the boards of {target} differ: {line}" for line in rack.remarks(states)] if len(reports) > 1 else []
    for line in lines if os.environ.get(STARTED_OVER) is None else ():
        print(f"warning: {line}", file=sys.stderr, flush=True)
    return common


def _recorded(target):
    path = f"{reach.IDENTITIES}/{target}.json"
    return read_json(path) if os.path.exists(path) else None


def _record(target, identity):
    """Record a board's identity; return whether it differs from the one by which this run's jobs were planned."""
    if _recorded(target) == identity:
        return False
    write_json(f"{reach.IDENTITIES}/{target}.json", identity)
    return True


def _start_over(targets):
    if os.environ.get(STARTED_OVER):
        raise UserError(f"{', '.join(targets)}: another identity each time it is asked: is it one board?")
    print(f"{', '.join(targets)}: recorded what it is; planning with that", file=sys.stderr, flush=True)
    restart.again({STARTED_OVER: "1"})
