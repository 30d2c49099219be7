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
        """Writes `<stem>.pdf`, `.svg`, `.png` and the numbers as `<stem>.json` and `<stem>.csv`."""
        stem, written = Path(stem), []
        stem.parent.mkdir(parents=True, exist_ok=True)
        for ending in (*formats, "json", "csv"):
            temporary = stem.with_name(f"{stem.name}.{ending}.tmp")
            self._write(temporary, ending)
            written.append(temporary.replace(stem.with_name(f"{stem.name}.{ending}")))
        return written

    def _write(self, path: Path, ending: str) -> None:
        """One of the files."""
        rows = [{key: _finite(value) for key, value in row.items()} for row in self.rows]
        if ending == "json":
            path.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
        elif ending == "csv":
            with path.open("w", newline="") as file:
                table = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
                table.writeheader()
                table.writerows(rows)
        else:
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending, {})
            with style():
                self.figure.savefig(path, format=ending, metadata=undated)


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


def label_points(axes: "Axes", labels: Sequence[tuple[str, float, float]], *, size: float = 6.0) -> None:
    """Writes each (text, x, y) beside its point, at the first place where it covers no other text, point or edge.

    Call it last: limits and sizes of the panel must not change any more.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()  # lays the panel out
    scale = figure.dpi / 72  # pixels a point
    centres = [axes.transData.transform((x, y)) for _, x, y in labels if math.isfinite(x) and math.isfinite(y)]
    taken = [_box(x, y, 5 * scale, 5 * scale) for x, y in centres]
    for (text, x, y), (px, py) in zip([one for one in labels if math.isfinite(one[1] + one[2])], centres, strict=True):
        note: Any = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=size, va="center")
        note.set(ha="center", in_layout=False)
        extent = note.get_window_extent()
        width, height = extent.width, extent.height
        places: list[Any] = []
        for gap in (5, 11, 18, 26, 36):
            for dx, dy in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)):
                move = (dx * (gap * scale + width / 2), dy * (gap * scale + height / 2 * bool(dx == 0 or dy)))
                box = _box(px + move[0], py + move[1], width, height)
                outside = _area(box) - _overlap(box, axes.bbox.extents)
                places.append((outside + sum(_overlap(box, other) for other in taken), gap, len(places), move, box))
        _, _, _, move, box = min(places)
        taken.append(box)
        note.xyann = (move[0] / scale, move[1] / scale)


def _box(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Left, lower, right and upper edge of a box around a point."""
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """The area that two boxes have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def require(items: Any, name: str) -> None:
    """Refuses an empty plot."""
    if len(items) == 0:
        raise ValueError(f"{name} is empty: there is nothing to draw")


def _finite(value: float | int | str | None) -> float | int | str | None:
    """JSON and CSV have no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
