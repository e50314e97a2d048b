"""Before the first job: check that every target with pending jobs, local or over ssh, matches its row.

Read while Snakemake parses, on hosts and devices alike: standard library only, Python 3.8.
"""

import os
import sys

from core.files import UserError, read_json, write_json
from devices import reach

STARTED_OVER = "LEVIT_STARTED_OVER"


def check(purposes, tables):
    """Raise UserError with a line for each target that cannot serve its purposes: {target: [`build`, `run`]}.

    If a board's identity differs from the recorded one, record it and restart Snakemake, which then plans with it.
    """
    boards = {target: board for target in purposes for board in [reach.board(tables, target)] if board}
    problems = [text for target in purposes if target not in boards for text in _here(target, purposes, tables)]
    found = _ask(boards, purposes, tables) if boards else {}
    problems += [
        f"{boards[target]['ssh']} cannot {seen['purpose']} engines of the target {target}: {seen['reason']}"
        for target, seen in found.items()
        if seen["reason"]
    ]
    if problems:
        raise UserError("\nerror: ".join(problems))
    changed = [target for target, seen in found.items() if _note(target, seen["identity"])]
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


def _note(target, identity):
    """Record a board's identity; return whether it is new, so that this run was planned without it."""
    path = f"{reach.IDENTITIES}/{target}.json"
    if os.path.exists(path) and read_json(path) == identity:
        return False
    write_json(path, identity)
    return True


def _start_over(targets):
    """Restart Snakemake with the same command line: what is stale depends on the board's identity."""
    if os.environ.get(STARTED_OVER):
        raise UserError(f"{', '.join(targets)}: another identity each time it is asked: is it one board?")
    print(f"{', '.join(targets)}: recorded what the board is; planning with that", file=sys.stderr, flush=True)
    with open("/proc/self/cmdline", "rb") as stream:
        words = [os.fsdecode(word) for word in stream.read().split(b"\0")[:-1]]
    os.execve(sys.executable, words, {**os.environ, STARTED_OVER: "1"})
