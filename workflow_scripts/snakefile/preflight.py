"""Check that every target with pending jobs (local or over ssh) matches its row."""

from __future__ import annotations

import os
import sys

from configuration.tables import Tables
from core.files import UserError, read_json, write_json
from devices import reach

STARTED_OVER = "LEVIT_STARTED_OVER"


def check(purposes: dict[str, list[str]], tables: Tables) -> None:
    """Raise UserError with a line for each target that cannot do what its jobs need: {target: [`build`, `run`]}.

    Where a board's identity has changed, record it and start Snakemake again: staleness depends on it.
    """
    boards = {target: board for target in purposes for board in [reach.board(tables, target)] if board}
    problems = [text for target in purposes if target not in boards for text in _here(target, purposes, tables)]
    answers = _ask(boards, purposes, tables) if boards else {}
    problems += [
        f"{boards[target]['ssh']} cannot {answer['purpose']} engines of the target {target}: {answer['reason']}"
        for target, answer in answers.items()
        if answer["reason"]
    ]
    if problems:
        raise UserError("\nerror: ".join(problems))
    changed = [target for target, answer in answers.items() if _record(target, answer["identity"])]
    if changed:
        _start_over(changed)


def _here(target, purposes, tables):
    """Return the first reason why this machine is not a target, if any, in a list."""
    for purpose in purposes[target]:
        reason = reach.unreachable(tables, target, purpose)
        if reason:
            return [f"this machine cannot {purpose} engines of the target {target}: {reason}"]
    return []


def _ask(boards, purposes, tables):
    from devices.survey import survey  # not while parsing

    return survey({t: (tables.row("target", t), purposes[t], board) for t, board in boards.items()})


def _record(target, identity):
    """Record a board's identity; return whether it differs from the one by which this run's jobs were planned."""
    path = f"{reach.IDENTITIES}/{target}.json"
    if os.path.exists(path) and read_json(path) == identity:
        return False
    write_json(path, identity)
    return True


def _start_over(targets):
    """Start Snakemake again with the same command line, which plans with the recorded identities."""
    if os.environ.get(STARTED_OVER):
        raise UserError(f"{', '.join(targets)}: another identity each time it is asked: is it one board?")
    print(f"{', '.join(targets)}: recorded what the board is; planning with that", file=sys.stderr, flush=True)
    with open("/proc/self/cmdline", "rb") as stream:
        words = [os.fsdecode(word) for word in stream.read().split(b"\0")[:-1]]
    os.execve(sys.executable, words, {**os.environ, STARTED_OVER: "1"})
