"""Render the templates of this folder: pages and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(name: str, **values: Any) -> str:
    """Return the text of a template; raise jinja2.UndefinedError for a value that it lacks."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(Path(__file__).with_name(name).read_text(encoding="utf-8")).render(**values)
