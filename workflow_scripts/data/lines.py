"""Sequences whose items are made when they are asked for.

A Python object for each of a million images takes hundreds of megabytes, and each process that a training forks copies
them by and by, because counting references writes to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class Lines(Sequence):
    """The lines of a text in UTF-8, each of which ends with a newline."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        self.starts = np.concatenate([[0], self.ends[:-1] + 1])

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: Any) -> str:
        return self.content[self.starts[position] : self.ends[position]].decode("utf-8", "surrogateescape")


class Lazy(Sequence):
    """function(item) of each item of a sequence."""

    def __init__(self, function: Callable, items: Sequence) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: Any) -> Any:
        return self.function(self.items[position])
