"""What the boards that are reached by ssh are and have, asked before a run's first job or by doctor.py."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from core.files import UserError
from core.sources import ROOT
from devices.ssh import Board, ConnectionLost

SENT = ("core.files", "devices.probe")  # modules whose text goes to the board
EXAMINING = (*SENT, "devices.power_modes", "devices.toolchain", "measure.rails", "measure.jetson", "measure.checkup")
COMPARING = (*SENT, "devices.power_modes", "measure.rails", "measure.jetson", "measure.meters")


def survey(rows: dict) -> dict:
    """Return for each key of `rows` what that board says, asked in parallel.

    That is {"reason": why it cannot do what is asked, or None, "purpose", "identity", "state": measure/meters.py's
    facts, of one of several boards}. rows: {key: (the target's row, purposes: `build`, `run`, the board's row)}.
    """
    missing = missing_programs()
    if missing:
        reason = f"{missing[0]} is not installed here"
        return {key: _unable(reason, purposes) for key, (_, purposes, _) in rows.items()}
    with ThreadPoolExecutor(len(rows)) as pool:
        return dict(zip(rows, pool.map(lambda row: _survey(*row), rows.values())))


def missing_programs() -> list[str]:
    """Return the programs that reach a board and are not installed here."""
    return [program for program in ("ssh", "rsync") if shutil.which(program) is None]


def _survey(row, purposes, board_row):
    sent = COMPARING if isinstance(row.get("ssh"), list) else SENT
    try:
        return _ask(board_row, "survey", sources=_texts(sent), row=row, purposes=purposes)
    except UserError as problem:
        return _unable(str(problem), purposes)


def examine(target: str, row: dict, board_row: dict, pins: dict) -> dict:
    """Return what measure/checkup.py finds on a board, and "skew": its clock minus ours, s; pins: {file: its text}."""
    start = time.time()
    answer = _ask(board_row, "examine", sources=_texts(EXAMINING), rows={target: row}, pins=pins)
    return {**answer, "skew": max(answer["clock"] - time.time(), 0) + min(answer["clock"] - start, 0)}


def _texts(modules):
    return {name: ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8") for name in modules}


def _ask(board_row, function, **parameters):
    board = Board(board_row)
    for _ in range(2):  # the first try may use a shared connection that is dead
        try:
            return board.ask(function, site=True, **parameters)
        except ConnectionLost as problem:
            reason = f"{problem}: is it on, and does `ssh {board_row['ssh']}` reach it?"
            board.hang_up()
    raise UserError(reason)


def _unable(reason, purposes):
    return {"reason": reason, "purpose": purposes[0], "identity": None, "state": None}
