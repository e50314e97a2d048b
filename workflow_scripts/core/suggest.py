"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[str]) -> str:
    """Return the names close to a misspelt one as a question, or all the names there are."""
    close = difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(names)) or 'none'}"
