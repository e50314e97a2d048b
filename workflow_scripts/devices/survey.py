"""What the boards that are reached by ssh are, asked before a run's first job."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

from core.files import UserError
from core.sources import ROOT
from devices.ssh import Board, ConnectionLost

SENT = ("core.files", "devices.probe")  # modules whose text goes to the board


def survey(rows: dict) -> dict:
    """Return {target: {"reason": why its board cannot do what is asked, or None, "purpose", "identity"}}, in parallel.

    rows: {target: (its row, purposes: `build`, `run`, the board's row)}.
    """
    missing = [program for program in ("ssh", "rsync") if shutil.which(program) is None]
    if missing:
        reason = f"{missing[0]} is not installed here"
        return {target: _unable(reason, purposes) for target, (_, purposes, _) in rows.items()}
    sources = {name: ROOT.joinpath(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8") for name in SENT}
    with ThreadPoolExecutor(len(rows)) as pool:
        return dict(zip(rows, pool.map(lambda row: _survey(sources, *row), rows.values())))


def _survey(sources, row, purposes, board_row):
    board = Board(board_row)
    for _ in range(2):  # the first try may use a shared connection that is dead
        try:
            return board.ask("survey", site=True, sources=sources, row=row, purposes=purposes)
        except UserError as problem:
            return _unable(str(problem), purposes)
        except ConnectionLost as problem:
            reason = f"{problem}: is it on, and does `ssh {board_row['ssh']}` reach it?"
            board.hang_up()
    return _unable(reason, purposes)


def _unable(reason, purposes):
    return {"reason": reason, "purpose": purposes[0], "identity": None}
