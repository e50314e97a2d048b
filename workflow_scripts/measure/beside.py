"""What ran beside a timing: the load average, and the processors' time that went to others.

All is read from /proc (proc(5)); what a system does not tell is None. Standard library only, Python 3.8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from core.files import system_text

QUIET = 5.0  # percent of all processors' time that steal and other processes may take
IDLE, IOWAIT, STEAL, FIELDS = 3, 4, 7, 8  # places in /proc/stat's first line; guests' time is part of user's
UTIME, STIME = 11, 12  # places in /proc/PID/stat after the name


class Window:
    """The time from here to `end`; own: ids of the processes that are timed, whose work is not others'."""

    def __init__(self, own: Sequence[int], root: str | os.PathLike = "/proc"):
        self._own, self._root = own, root
        self._load, self._ticks, self._used = load_average(root), _ticks(root), _used(own, root)

    def end(self) -> dict[str, float | None]:
        """Return {load_before, load_after, steal_percent, others_percent}; percent of all processors' time."""
        now = _ticks(self._root)
        passed = [after - before for before, after in zip(self._ticks, now)]
        total, loads = sum(passed), {"load_before": self._load, "load_after": load_average(self._root)}
        if not total:
            return {**loads, "steal_percent": None, "others_percent": None}
        busy = total - passed[IDLE] - passed[IOWAIT] - passed[STEAL]
        others = max(busy - (_used(self._own, self._root) - self._used), 0)
        return {**loads, "steal_percent": _percent(passed[STEAL], total), "others_percent": _percent(others, total)}


def load_average(root: str | os.PathLike = "/proc") -> float | None:
    """Return the mean number of processes that ran or waited to run in the last minute."""
    words = system_text(os.path.join(root, "loadavg")).split()
    return float(words[0]) if words else None


def taken_percent(beside: dict | None) -> float | None:
    """Return the percent of the processors' time that others and the hypervisor took, or None if it is not known."""
    known = beside or {}
    steal, others = known.get("steal_percent"), known.get("others_percent")
    return None if steal is None or others is None else steal + others


def is_quiet(beside: dict | None) -> bool:
    """Return whether no more than QUIET was taken; True if it is not known."""
    return (taken_percent(beside) or 0.0) <= QUIET


def note(beside: dict | None) -> str:
    """Return what was taken as the end of a line, or an empty text for a quiet machine."""
    if is_quiet(beside):
        return ""
    text = "; other processes took {others_percent:.0f} % of the processors, and steal {steal_percent:.0f} %"
    return text.format(**(beside or {}))


def _percent(part, total):
    return round(100 * part / total, 1)


def _ticks(root):
    """Return the ticks of all processors since the start, by kind; zeros where the system does not tell."""
    words = system_text(os.path.join(root, "stat")).split("\n", 1)[0].split()[1 : FIELDS + 1]
    return [int(word) for word in words] if len(words) == FIELDS else [0] * FIELDS


def _used(own, root):
    texts = [system_text(os.path.join(root, str(process), "stat")) for process in own]
    fields = [text.rsplit(")", 1)[1].split() for text in texts if ")" in text]
    return sum(int(words[UTIME]) + int(words[STIME]) for words in fields)
