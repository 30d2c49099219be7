"""The papers' tables, as they print them, from the files in `tables/`."""

import csv
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "tables"


class PaperTable(NamedTuple):
    """One printed table.

    Attributes:
        source: table and paper.
        caption: what it shows.
        columns: headings.
        rows: cells as printed, "-" for none.
    """

    source: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def paper_table(name: str) -> PaperTable:
    """The table of that file name, such as "dra-table-3".

    Raises:
        ValueError: if a row has another number of cells than there are columns.
    """
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    source, caption = (line.removeprefix("# ") for line in lines[:2])
    columns, *rows = (tuple(row) for row in csv.reader(lines[2:], delimiter="\t"))
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{name}.tsv: {len(columns)} columns, but a row of {len(row)}: {' '.join(row)}")
    return PaperTable(source, caption, columns, tuple(rows))
