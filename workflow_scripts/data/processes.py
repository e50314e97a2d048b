"""Work spread over forked processes, one a core, under a progress bar."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import cast

from core import processors, progress
from core.files import UserError

CHUNK = 8  # tasks that a process takes at a time
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
_function: Callable


def imap(function: Callable, tasks: Sequence, description: str, unit: str, processes: int = 0) -> Generator:
    """Yield function(task) in the tasks' order; whoever stops early cancels the tasks that have not begun.

    Tasks and results are pickled; the function is inherited, so it may be a closure over large data.
    processes: how many (0: one a core). Raises what the function raises, and UserError if a process is killed.
    """
    count = processes or processors.available()
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _start, (function,))
    progress_bar = progress.bar(len(tasks), description, unit)
    try:
        results = cast(Generator, pool.map(_call, tasks, chunksize=CHUNK))
        with pool, progress_bar as bar, contextlib.closing(results):
            for result in results:
                bar.update()
                yield result
    except BrokenProcessPool:
        raise UserError(f"{description}: a process was killed, perhaps because memory ran out: free some") from None


def _start(function):
    global _function
    _function = function
    end_with_parent()


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends: a killed parent would leave it waiting."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _call(task):
    return _function(task)
