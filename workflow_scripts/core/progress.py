"""Progress bars on stderr in a terminal; elsewhere, a line in the log once a minute."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

MINUTE = 60.0
LINE = "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left{postfix}"


class _Log:
    """Writes each line of a bar to the log."""

    def write(self, text):
        if text.strip():
            logging.getLogger("levit").info(text.strip())

    def flush(self):
        """Do nothing: the log is flushed line by line."""


def bar(total: int, desc: str, unit: str = "image", disable: bool = False) -> tqdm:
    """Return a context manager with `update(n)` and `set_postfix_str(text)`; disable: show nothing."""
    options: dict[str, Any] = {"mininterval": 0.2, "leave": False}
    if not sys.stderr.isatty():
        options = {"mininterval": MINUTE, "delay": MINUTE, "file": _Log(), "bar_format": LINE}
    return tqdm(total=total, desc=desc, unit=unit, disable=disable, **options)


def over(items: Sequence[Any], desc: str, unit: str = "image") -> Iterator[Any]:
    """Yield the items under a progress bar."""
    with bar(len(items), desc, unit) as progress:
        for item in items:
            yield item
            progress.update()
