"""Several boards of one kind under one target (`ssh: [a, b]` in its row): which board takes a job, and which take none.

A job goes to the board that already has it, else to the free board that lacks the fewest bytes of its inputs. The
process that waits here for a job holds a lock on the board, which the kernel releases when the process dies. On the
board, the job itself holds a lock that other machines respect as well (board_agent.py).

An engine is valid on every board, because all boards of a target share one identity: a board that differs is left out.
Timings with the same `home` stay on one board, so that they can be compared.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.files import UserError, canonical, digest_of, read_json, write_json
from devices.board_agent import try_lock
from devices.reach import IDENTITIES
from devices.ssh import Board, ConnectionLost

ONLY = "LEVIT_ONLY_BOARD"  # the number of the board that takes all jobs of a run, to time an engine on each of them
RETRY = 300  # seconds after which a board that stopped answering during a run is asked again
PAUSE = 0.5  # seconds between two looks at the locks here
BUSY = 5  # seconds until a board with another machine's job is asked again: asking disturbs what is timed there


def rows(row: dict) -> list[dict]:
    """Return the row of each board in that of a target's boards (reach.board); a single board has the target's name."""
    if isinstance(row["ssh"], str):
        return [row]
    names = {n: f"{row['name']} board {n}" for n in range(1, len(row["ssh"]) + 1)} if len(row["ssh"]) > 1 else {}
    return [{**row, "ssh": ssh, "name": names.get(n, row["name"])} for n, ssh in enumerate(row["ssh"], 1)]


# Boards that are left out: a file for each, written at the start of a run or when the board stops answering


def _away(target, ssh):
    return Path(IDENTITIES, f"{target}.{digest_of(ssh)[:12]}.away")


def start(target: str, left_out: list[str]) -> None:
    """Readmit a target's boards, except those left out of this run (ssh destinations)."""
    for path in Path(IDENTITIES).glob(f"{target}.*.away"):
        path.unlink()
    for ssh in left_out:
        write_json(_away(target, ssh), {"whole_run": True})


def _is_away(target, ssh):
    path = _away(target, ssh)
    with contextlib.suppress(OSError, UserError):
        return read_json(path)["whole_run"] or abs(time.time() - path.stat().st_mtime) < RETRY
    return False


# Comparing boards


def alike(answers: list[dict], recorded: dict | None) -> tuple[dict, list[str | None]]:
    """Return the identity of a target's boards, and for each why it is left out, or None.

    answers: the report of each board (survey.py); at least one board fits its row. The identity is the recorded one,
    with which artifacts were made so far, else that of most boards.
    """
    fit = [answer["identity"] for answer in answers if not answer["reason"]]
    count = collections.Counter(map(canonical, fit))
    common = recorded if recorded and recorded in fit else max(fit, key=lambda each: count[canonical(each)])
    return common, [answer["reason"] or difference(common, answer["identity"]) for answer in answers]


def difference(common: dict, identity: dict) -> str | None:
    """Return how a board's identity differs from that of the others, or None."""
    pairs = {key: (identity.get(key), common.get(key)) for key in {**common, **identity}}
    differing = {key: map(_text, pair) for key, pair in pairs.items() if pair[0] != pair[1]}
    lines = ["{} is {} there and {} on the others".format(key, *texts) for key, texts in differing.items()]
    return "; ".join(lines) or None


def _text(value):
    return ",".join(map(str, value)) if isinstance(value, list) else value


def remarks(states: dict[str, dict]) -> Iterator[str]:
    """Yield a line for each difference between a target's boards that timings depend on; states: {board: its state}."""
    for key, what in (("power_mode", "power mode"), ("gpu_mhz", "the GPU's clock range in MHz")):
        values = {name: _text(state[key]) for name, state in states.items()}
        if len(set(map(str, values.values()))) > 1:
            yield f"{what}: {', '.join(f'{value} on {name}' for name, value in values.items())}"
    machines = collections.defaultdict(list)
    for name, state in states.items():
        machines[state["machine"]].append(name)
    for machine, names in machines.items():
        if machine and len(names) > 1:
            remedy = "(sudo rm /etc/machine-id && sudo systemd-machine-id-setup)"
            yield f"{' and '.join(names)} have one machine id: they are one board, or copies of one disk {remedy}"


# Choosing a board


class Rack:
    """The boards of one target, for one job; `warnings` lists boards that stopped answering."""

    def __init__(self, row: dict, home: str | None = None):
        """row: of a target's boards (reach.board); home: a key shared by timings that must stay on one board."""
        self.target, self.home, self.warnings = row["name"], home, []
        self.boards = [Board(each) for each in _only(row["name"], rows(row))]
        self.busy_until = dict.fromkeys(self.boards, 0.0)

    @contextlib.contextmanager
    def reserved(self, ask: Callable[[Board], dict]) -> Iterator[Board]:
        """Yield the board for a job, locked to the end, or the first where none answers; ask: as board_agent.look."""
        for count in itertools.count():
            choice = self._choose(ask) if len(self.boards) > 1 else None
            if choice:
                with choice[1]:
                    yield choice[0]
                return
            if len(self.boards) == 1 or not self.present():
                yield self.boards[0]
                return
            if count == 1:
                self.boards[0].log("every board that may take this job is at work: waiting")
            time.sleep(PAUSE)

    def present(self) -> list[Board]:
        """Return the boards that are not left out."""
        return [board for board in self.boards if not _is_away(self.target, board.destination)]

    def leave_out(self, board: Board) -> None:
        """Send no jobs to a board that does not answer for RETRY seconds."""
        path = _away(self.target, board.destination)
        if not path.exists():
            self.warnings.append(f"{board.name} does not answer: the other boards take its work")
        write_json(path, {"whole_run": False})

    def _choose(self, ask):
        ranked = self._ranked()
        due = [board for board in ranked if time.monotonic() >= self.busy_until[board]]
        locks = {board: lock for board in due for lock in [try_lock(f"{board.control_path()}.lock")] if lock}
        try:
            chosen = self._preferred(self._ask(list(locks), ask), ranked)
            return (chosen, locks.pop(chosen)) if chosen else None
        finally:
            for lock in locks.values():
                lock.close()

    def _ranked(self):
        """Return boards in the order of the row; for a home, by a hash that moves no other home when boards change."""
        hashes = {board: digest_of([self.home, board.destination]) for board in self.boards}
        return sorted(self.present(), key=hashes.__getitem__) if self.home else self.present()

    def _preferred(self, answers, ranked):
        """Return the board that has the job, else the free home, else the free one that lacks least; None: wait."""
        having = [board for board in answers if answers[board]["has_job"]]
        free = [board for board in ranked if board in answers and not answers[board]["is_busy"]]
        if having or not self.home:
            return next(iter(having or sorted(free, key=lambda board: answers[board]["missing"])), None)
        return ranked[0] if ranked[0] in free else None

    def _ask(self, boards, ask):
        with ThreadPoolExecutor(max(len(boards), 1)) as pool:
            answers = dict(zip(boards, pool.map(lambda board: _answer(board, ask), boards)))
        for board, answer in answers.items():
            if answer is None:
                self.leave_out(board)
                continue
            _away(self.target, board.destination).unlink(missing_ok=True)
            self.busy_until[board] = time.monotonic() + BUSY * answer["is_busy"]
        return {board: answer for board, answer in answers.items() if answer}


def _only(target, several):
    number = os.environ.get(ONLY) if len(several) > 1 else None
    if not number:
        return several
    if not number.isdecimal() or not 0 < int(number) <= len(several):
        raise UserError(f"{ONLY}={number}: the target has the boards 1 to {len(several)}")
    only = several[int(number) - 1]
    if _is_away(target, only["ssh"]):
        raise UserError(f"{only['name']} is left out of this run, which said why at its start: take {ONLY} out")
    return [only]


def _answer(board, ask):
    for _ in range(2):  # the first try may use a shared connection that is dead
        try:
            return ask(board)
        except ConnectionLost:
            board.hang_up()
        except UserError:
            return None
    return None
