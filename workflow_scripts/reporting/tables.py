"""Tables of the page as data: what page/table.html draws. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from measure import proportion

LONG = 40  # characters of a text that is broken into lines
GREY, BAD = "grey", "bad"  # styles of cells and rows


class Cell(NamedTuple):
    """A cell: its text, what the table sorts by, a style, a remark in small letters, a link and a command to run."""

    text: str = ""
    sort: float | str | None = None
    style: str = ""
    small: str = ""
    link: str = ""
    command: str = ""


class Row(NamedTuple):
    """A row {column: cell}; style: of all its cells; batches: the choices of the batch size that show it, or any."""

    cells: dict[str, Cell]
    style: str = ""
    batches: str = ""


def table(name: str, caption: str, rows: Iterable[Row]) -> dict[str, Any] | None:
    """Return a table of rows of the same columns, without columns that are empty in every row; None without rows.

    name: its id in the page. The first column names the row.
    """
    rows = list(rows)
    if not rows:
        return None
    columns = {label: [row.cells[label] for row in rows] for label in rows[0].cells}
    filled = {label: cells for label, cells in columns.items() if any(c.text or c.small or c.command for c in cells)}
    heads = [{"label": label, "kind": _kind(cells)} for label, cells in filled.items()]
    lean = [row._replace(cells={label: row.cells[label] for label in filled}) for row in rows]
    return {"name": name, "caption": caption, "columns": heads, "rows": lean}


def _kind(cells):
    """Return what a column has: words, where texts are long, numbers, or short texts."""
    if any(cell.command or len(cell.text) > LONG for cell in cells):
        return "words"
    sorts = [cell.sort for cell in cells if cell.sort is not None]
    return "number" if sorts and not any(isinstance(sort, str) for sort in sorts) else ""


def text(value: Any, style: str = "", small: str = "") -> Cell:
    """Return a cell of a text or of a whole number; None is empty."""
    return Cell("" if value is None else str(value), value, style, small)


def number(value: float | None, form: str = "{:.1f}", style: str = "", small: str = "") -> Cell:
    """Return a cell of a number in a format; None is empty."""
    return Cell() if value is None else Cell(form.format(value), value, style, small)


def speed(value: float | None) -> str:
    """Return the text of images per second: whole from 100 on, with a comma at thousands; None is ""."""
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def throughput(value: float | None, small: str = "") -> Cell:
    """Return a cell of images per second; None is empty."""
    return Cell() if value is None else Cell(speed(value), value, small=small)


def moment(date: str | None) -> Cell:
    """Return a cell of an ISO 8601 date and time in UTC, to the minute; None is empty."""
    return Cell(to_minute(date), date) if date else Cell()


def to_minute(date: str) -> str:
    """Return the text of an ISO 8601 date and time in UTC, to the minute."""
    return date[:16].replace("T", " ")


def percent(value: float | None, count: int | None, style: str = "") -> Cell:
    """Return a cell of an accuracy in percent with its 95 % interval, where the number of images is known."""
    if value is None:
        return Cell()
    small = "{:.1f} to {:.1f}".format(*proportion.interval(value, count)) if count else ""
    return Cell(f"{value:.2f}", value, style, small)
