"""The papers' tables, as they print them, from the files in `tables/`."""

import csv
from pathlib import Path
from typing import NamedTuple

from rp_experiments.tables import Row

FOLDER = Path(__file__).parent / "tables"


class PaperTable(NamedTuple):
    """One printed table."""

    source: str  # table and paper
    caption: str
    rows: list[Row]  # cells as printed, "-" for none


def paper_table(name: str) -> PaperTable:
    """The table of that file name, such as "dra-table-3"; a row of another length than the headings is an error."""
    lines = (FOLDER / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    source, caption = (line.removeprefix("# ") for line in lines[:2])
    headings, *rows = csv.reader(lines[2:], delimiter="\t")
    return PaperTable(source, caption, [dict(zip(headings, row, strict=True)) for row in rows])
