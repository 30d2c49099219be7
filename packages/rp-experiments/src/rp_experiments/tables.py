"""The one renderer of tables: as text for a terminal, and as Markdown; pages show cells by the same rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from rp_experiments.results import percent

Cell = str | int | float | None | Mapping[str, Any]  # a mapping is an accuracy
Row = Mapping[str, Cell]  # by heading


def cell(value: Cell) -> str:
    """An accuracy in percent, a number with four digits, a dash for nothing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, Mapping):
        return percent(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def headings(rows: Sequence[Row]) -> list[str]:
    """The columns in the order in which they first appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def text(rows: Sequence[Row]) -> str:
    """The table as plain text, one line a row."""
    return _rendered(rows, "simple")


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    return _rendered(rows, "pipe")


def _rendered(rows: Sequence[Row], form: str) -> str:
    """Words stand on the left, numbers on the right."""
    if not rows:
        raise ValueError("a table needs at least one row")
    columns = headings(rows)
    sides = ["left" if any(isinstance(row.get(key), str) for row in rows) else "right" for key in columns]
    lines = [[cell(row.get(key)) for key in columns] for row in rows]
    if form == "pipe":
        columns, *lines = ([word.replace("|", "\\|") for word in line] for line in (columns, *lines))
    table = tabulate(lines, columns, tablefmt=form, disable_numparse=True, colalign=sides, headersglobalalign=None)
    return "\n".join(line.rstrip() for line in table.splitlines())
