"""Work spread over processes, one a core, under a progress bar."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from core import progress
from core.files import UserError


def each(function, tasks, description, unit):
    """Return [function(task)] in the tasks' order; function: of a module's top level, so that a process finds it.

    Raises what the function raises, and UserError where a process is killed.
    """
    done = []
    try:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")) as pool:
            results = pool.map(function, tasks, chunksize=4)
            with progress.bar(len(tasks), description, unit) as bar:
                for result in results:
                    done.append(result)
                    bar.update()
    except BrokenProcessPool:
        raise UserError(
            f"{description}: a process was killed, perhaps for want of memory: free some and rerun"
        ) from None
    return done
