"""The one writer of HTML pages: templates that escape what they are given, figures inside the page."""

import base64
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rp_models.training import RunFolder

from rp_experiments.tables import Row, cell, headings

if TYPE_CHECKING:
    from jinja2 import Environment
    from rp_analysis.plots import Plot

    from rp_experiments.run import Run

WIDEST = 1100  # pixels of an embedded picture
PER_INCH = 120  # pixels that an inch of a figure is never narrower than: its 7 points are 11.7 pixels high


class Picture(NamedTuple):
    """A figure as a page embeds it."""

    source: str  # data URL
    caption: str
    least: int  # pixels; a narrower screen scrolls, so that the figure's text stays readable


def render(template: str, **values: Any) -> str:
    """The page, HTML or Markdown, that a template makes of these values; a name that is missing is an error."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("rp_experiments")
    made = Environment(
        loader=loader, autoescape=_is_html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"cell": cell, "headings": headings}
    return made


def _is_html(template: str | None) -> bool:
    """Whether what stands in a template is escaped; Markdown is not."""
    return template is None or template.endswith(".html")


class Page:
    """Sections of text, tables and figures, written as one page without outside files."""

    def __init__(self, title: str) -> None:
        self.title, self.parts = title, list[Mapping[str, Any]]()

    def section(self, heading: str) -> None:
        """Begin a section."""
        self.parts.append({"heading": heading})

    def text(self, paragraph: str) -> None:
        """Add a paragraph of plain text."""
        self.parts.append({"text": paragraph})

    def table(self, rows: Sequence[Row], caption: str = "") -> None:
        """Add a table, one mapping a row."""
        if not rows:
            raise ValueError("a table needs at least one row")
        self.parts.append({"rows": rows, "caption": caption})

    def figure(self, plot: "Plot", caption: str) -> None:
        """Add a figure; the caption is also its text alternative."""
        self.parts.append({"picture": vector(plot, caption)})

    def write(self, path: Path) -> Path:
        """Write the page, complete or not at all."""
        return RunFolder(path.parent).write_text(path.name, render("page.html", title=self.title, parts=self.parts))


class Sections:
    """Work that fills a page of its run, with `tables/*.json` and figures beside it, section by section."""

    formats: Sequence[str] = ("pdf", "svg", "png")  # of the figures' files

    def __init__(self, run: "Run", title: str) -> None:
        self.run, self.page, self.tables = run, Page(title), dict[str, Sequence[Mapping[str, Any]]]()

    def work(self, sections: Sequence[Callable[[], None]]) -> None:
        """All sections, each with its time."""
        self.run.progress.start("analyze", len(sections))
        for number, section in enumerate(sections, start=1):
            name = section.__name__
            print(f"{name} ...", file=sys.stderr, flush=True)
            with self.run.timed(name):
                section()
            self.run.progress.advance(number)
        self.run.progress.finish()

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], caption: str) -> None:
        """Add a table to page, folder and `tables`."""
        self.tables[name] = rows
        self.run.folder.write_json(f"tables/{name}.json", rows)
        self.page.table(rows, caption)

    def figure(self, name: str, plot: "Plot", caption: str) -> None:
        """Add a figure to page and folder."""
        plot.save(self.run.path / "figures" / name, formats=self.formats)
        self.page.figure(plot, caption)


def vector(plot: "Plot", caption: str) -> Picture:
    """A figure as SVG."""
    from rp_analysis.plots.style import style

    buffer = io.BytesIO()
    with style():
        plot.figure.savefig(buffer, format="svg", metadata={"Date": None})
    return Picture(_url("svg+xml", buffer.getvalue()), caption, round(PER_INCH * plot.figure.get_size_inches()[0]))


def pixels(file: Path, caption: str) -> Picture:
    """A PNG in few colours, not wider than a page."""
    from PIL import Image

    with Image.open(file) as opened:
        image, per_inch = opened.convert("RGB"), float(opened.info.get("dpi", (300.0,))[0])
    least = round(PER_INCH * image.width / per_inch)
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return Picture(_url("png", buffer.getvalue()), caption, least)


def _url(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
