"""Progress bars on stderr: often redrawn in a terminal, every few seconds in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm


def bar(total: int, desc: str, unit: str = "image", disable: bool = False) -> tqdm:
    """Return a context manager with `update(n)` and `set_postfix_str(text)`; disable: show nothing."""
    interval = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(total=total, desc=desc, unit=unit, mininterval=interval, disable=disable)


def over(items: Sequence[Any], desc: str, unit: str = "image") -> Iterator[Any]:
    """Yield the items under a progress bar."""
    with bar(len(items), desc, unit) as progress:
        for item in items:
            yield item
            progress.update()
