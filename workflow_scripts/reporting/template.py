"""Render the templates of this folder: pages and pictures."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2


@functools.lru_cache(maxsize=None)
def _environment():
    loader = jinja2.FileSystemLoader(str(Path(__file__).parent))
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=loader, trim_blocks=True, lstrip_blocks=True
    )


def render(name: str, **values: Any) -> str:
    """Return the text of a template; raise jinja2.UndefinedError for a value that it lacks."""
    return _environment().get_template(name).render(**values)
