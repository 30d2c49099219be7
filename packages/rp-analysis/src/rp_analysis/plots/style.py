"""One look for all figures: Okabe-Ito colours with markers, vector and pixel output, the numbers beside."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito 2008, without yellow, which is lost in print; in the order of use."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
GREY = "#767676"
SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"

_RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "rp-analysis",  # the same figure gives the same file
    "figure.dpi": 100,
    "savefig.dpi": 300,
}

Row = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Plot:
    """A figure and the numbers it shows, one row per drawn point."""

    figure: "Figure"
    rows: list[Row]

    def save(self, stem: str | Path, formats: Sequence[str] = ("pdf", "svg", "png")) -> list[Path]:
        """Writes `<stem>.pdf`, `.svg`, `.png` and the numbers as `<stem>.json` and `<stem>.csv`.

        Returns:
            The paths written.
        """
        stem = Path(stem)
        stem.parent.mkdir(parents=True, exist_ok=True)
        written = [stem.with_name(f"{stem.name}.{ending}") for ending in (*formats, "json", "csv")]
        for path in written[:-2]:
            undated = {} if path.suffix == ".png" else {"Date" if path.suffix == ".svg" else "CreationDate": None}
            with style():
                self.figure.savefig(path, metadata=undated)
        rows = [{key: _finite(value) for key, value in row.items()} for row in self.rows]
        written[-2].write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with written[-1].open("w", newline="") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)
        return written


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for these figures, inside the block only.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message says how to install it.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("figures need matplotlib: pip install 'rp-analysis[plots]'") from error
    with matplotlib.rc_context(_RC):
        yield


def new_figure(
    columns: int = 1, rows: int = 1, *, width: float = 3.3, height: float = 2.4, **options: Any
) -> tuple["Figure", list["Axes"]]:
    """A figure of `columns` x `rows` panels of `width` x `height` inches, and its panels row by row.

    It belongs to nobody but the caller: no pyplot state, no window, nothing to close.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def line_style(i: int) -> dict[str, Any]:
    """Colour, marker and line of series i: told apart without colour too."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i % len(LINES)],
    }


def point_style(i: int) -> dict[str, Any]:
    """Colour and marker of series i of a scatter plot."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def require(items: Any, name: str) -> None:
    """Refuses an empty plot.

    Raises:
        ValueError: nothing to draw.
    """
    if len(items) == 0:
        raise ValueError(f"{name} is empty: there is nothing to draw")


def _finite(value: float | int | str | None) -> float | int | str | None:
    """JSON and CSV have no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
