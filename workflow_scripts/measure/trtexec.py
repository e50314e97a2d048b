"""trtexec's own timing of an engine, from the file that it writes with --exportTimes, for a comparison with ours."""

import json

import numpy as np

from files import UserError
from runtimes import Timing

FIELDS = ("latencyMs", "computeMs", "h2dMs", "d2hMs")


def read(path):
    """Return the Timing in a file of --exportTimes.

    Its queries per second are trtexec's: from the first query's copy to the device to the last one's copy back.
    Versions before 8.5 write inMs and outMs for the copies. Raises UserError where the file is something else.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            rows = [_renamed(row) for row in json.load(stream)]
        columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in FIELDS}
        enqueue = np.array([row["endEnqMs"] - row["startEnqMs"] for row in rows]) if "endEnqMs" in rows[0] else None
        wall = (max(row["endD2hMs"] for row in rows) - rows[0]["startH2dMs"]) / 1e3
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise UserError(f"{path} is no file of trtexec --exportTimes") from None
    return Timing(*(columns[name] for name in FIELDS), enqueue, wall)


def _renamed(row):
    older = {"inMs": "h2dMs", "outMs": "d2hMs", "startInMs": "startH2dMs", "endOutMs": "endD2hMs"}
    return {older.get(name, name): value for name, value in row.items()}
