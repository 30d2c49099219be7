"""A single self-contained HTML page of figures and tables."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from .plots.style import Plot, style

Cell = str | float | int | None

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }}
nav a {{ margin-right: 1rem; }}
figure {{ margin: 1.5rem 0; }}
figure img {{ max-width: 100%; height: auto; }}
figcaption, caption {{ color: #555; font-size: 0.9rem; text-align: left; padding: 0.3rem 0; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
thead th {{ border-bottom: 2px solid #555; }}
</style>
</head>
<body>
<h1>{title}</h1>
<nav>{links}</nav>
{body}
</body>
</html>
"""


class Report:
    """Collects sections of text, tables and figures and writes them as one page without outside files.

    Args:
        title: heading of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []
        self._sections: list[str] = []

    def section(self, heading: str) -> None:
        """Begins a section."""
        self._sections.append(heading)
        self._parts.append(f'<h2 id="s{len(self._sections)}">{html.escape(heading)}</h2>')

    def text(self, paragraph: str) -> None:
        """Adds a paragraph of plain text."""
        self._parts.append(f"<p>{html.escape(paragraph)}</p>")

    def table(self, rows: Sequence[Mapping[str, Cell]], caption: str = "") -> None:
        """Adds a table, one mapping per row; columns come in the order in which they first appear.

        Raises:
            ValueError: no rows.
        """
        if not rows:
            raise ValueError("a table needs at least one row")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        lines = ("".join(f"<td>{_cell(row.get(column))}</td>" for column in columns) for row in rows)
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        caption = f"<caption>{html.escape(caption)}</caption>" if caption else ""
        table = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
        self._parts.append(f'<div class="wide">{table}</div>')

    def figure(self, plot: Plot, caption: str) -> None:
        """Adds a figure as an embedded SVG image; the caption is also its text alternative."""
        with style():
            buffer = io.BytesIO()
            plot.figure.savefig(buffer, format="svg", metadata={"Date": None})
        data = base64.b64encode(buffer.getvalue()).decode()
        caption = html.escape(caption)
        image = f'<img alt="{caption}" src="data:image/svg+xml;base64,{data}">'
        self._parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")

    def write(self, path: str | Path) -> Path:
        """Writes the page and returns its path."""
        links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, name in enumerate(self._sections, 1))
        page = _PAGE.format(title=html.escape(self.title), links=links, body="\n".join(self._parts))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        return path


def _cell(value: Cell) -> str:
    """Text of a table cell: four significant digits, a dash for nothing."""
    if value is None or value != value:
        return "–"
    return html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
