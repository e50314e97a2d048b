"""What a precision that chooses looks for: `objective` in config.yaml. Standard library only, Python 3.8."""

from __future__ import annotations

import re
from typing import NamedTuple

from core.files import UserError

DEFAULT = "latency"
FORMS = "throughput, latency, or throughput within N ms at p99"
LIMITED = re.compile(r"throughput within (-?[0-9]+(?:[.][0-9]+)?) ms at p99")


class Objective(NamedTuple):
    """text: as in config.yaml; metric: throughput or latency; limit_ms: of the p99 latency, at most; or None."""

    text: str
    metric: str
    limit_ms: float | None


def parse(text: str) -> Objective:
    """Return the Objective of a text; raise UserError where it has none of the three forms, or N is not positive."""
    plain = " ".join(text.split())
    if plain in ("throughput", "latency"):
        return Objective(plain, plain, None)
    match = LIMITED.fullmatch(plain)
    if not match:
        raise UserError(f"{text!r} is not {FORMS}")
    limit = float(match.group(1))
    if limit <= 0:
        raise UserError(f"{text!r} leaves no query any time: N must be above 0 ms")
    return Objective(plain, "throughput", limit)
