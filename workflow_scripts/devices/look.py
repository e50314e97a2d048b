"""What boards that are reached by ssh are, asked before a run's first job. Standard library only, Python 3.8."""

import shutil
from concurrent.futures import ThreadPoolExecutor

from core.files import UserError
from core.sources import ROOT
from devices.ssh import Board, Lost


def look(rows):
    """Return {target: {"reason": why its board cannot do what is asked, or None, "purpose", "identity"}}, all at once.

    rows: {target: (its row, purposes: `build`, `run`, the board's row)}.
    """
    missing = [program for program in ("ssh", "rsync") if shutil.which(program) is None]
    if missing:
        return {
            target: _unable(f"{missing[0]} is not installed here", purposes)
            for target, (_, purposes, _) in rows.items()
        }
    sources = {name: _text(name) for name in ("core.files", "devices.probe")}
    with ThreadPoolExecutor(len(rows)) as pool:
        return dict(zip(rows, pool.map(lambda asked: _look(sources, *asked), rows.values())))


def _look(sources, row, purposes, place):
    board = Board(place)
    for _ in range(2):  # the connection of an earlier minute may be a dead one
        try:
            return board.ask("look", site=True, sources=sources, row=row, purposes=purposes)
        except UserError as problem:
            return _unable(str(problem), purposes)
        except Lost as problem:
            reason = f"{problem}: is it on, and does `ssh {place['ssh']}` reach it?"
            board.hang_up()
    return _unable(reason, purposes)


def _unable(reason, purposes):
    return {"reason": reason, "purpose": purposes[0], "identity": None}


def _text(module):
    return ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
