"""Progress bars on stderr in a terminal; elsewhere, a line in the log once a minute; nothing where tqdm is missing."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import Any

try:
    from tqdm import tqdm
except ImportError:  # the host of a kit has numpy, Pillow and the runtime alone
    tqdm = None

MINUTE = 60.0
LINE = "{desc}: {n_fmt} of {total_fmt} in {elapsed}, {remaining} left{postfix}"


class _Log:
    def write(self, text):
        if text.strip():
            logging.getLogger("levit").info(text.strip())

    def flush(self):
        """Do nothing: the log is flushed line by line."""


class _Nothing(contextlib.nullcontext):
    def __enter__(self):
        return self

    def update(self, n=1):
        """Do nothing."""

    set_postfix_str = update


def bar(total: int, desc: str, unit: str = "image", disable: bool = False) -> Any:
    """Return a context manager with `update(n)` and `set_postfix_str(text)`; disable: show nothing."""
    if tqdm is None:
        return _Nothing()
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
