"""Table 3 of the DRA paper: how many principal components a classifier's decision needs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Claim, Finding, Numbers, Z, everyone
from rp_experiments.papers.dra_tables import TITLES
from rp_experiments.papers.item import Figure, Item, Outcome, Row, Table


def _table_3(made: Mapping[str, Made]) -> Outcome:
    analysis = made["analysis"]
    images = analysis.read()["setting"]["images"] if analysis.has("result.json") else 0
    numbers: dict[str, Any] = {}
    rows: list[Row] = []
    for row in analysis.read("tables/dimension.json"):
        ranges = _ranges(analysis.read(f"figures/dimension-{row['method']}.json"), images)
        numbers |= {f"{row['method']}, {name}": (row[name], *found) for name, found in ranges.items()}
        rows.append({**row, **{f"{name}, 95%": "{} to {}".format(*found) for name, found in ranges.items()}})
    figures = [
        Figure(f"accuracy over components, {row['method']}", "analysis", f"figures/dimension-{row['method']}.png")
        for row in rows
    ]
    return Outcome(
        tables=[Table("Number of principal components", rows, "analysis")],
        figures=[figure for figure in figures if analysis.has(figure.file)],
        numbers=numbers,
    )


def _ranges(curve: Sequence[Mapping[str, float]], images: int) -> dict[str, tuple[int, int]]:
    """The smallest and largest number of components that each dimension could be, from the images' sampling error.

    A curve's point counts as having reached a level if its 95% interval (as if its images were others) reaches it.

    Args:
        curve: clean and adversarial accuracy over the number of components.
        images: how many it was measured on.
    """
    last = max(int(point["k"]) for point in curve)
    if not images:
        return dict.fromkeys(("CLS-95", "CLS-99", "robust"), (0, last))

    def error(share: float) -> float:
        return Z * math.sqrt(max(share * (1 - share), 1 / images) / images)

    found: dict[str, tuple[int, int]] = {}
    full = curve[-1]["clean"]
    for name, share in (("CLS-95", 0.95), ("CLS-99", 0.99)):
        maybe = [int(point["k"]) for point in curve if point["clean"] + error(point["clean"]) >= share * full]
        surely = [int(point["k"]) for point in curve if point["clean"] - error(point["clean"]) >= share * full]
        found[name] = (min(maybe, default=0), min(surely, default=last))
    peak = max(point["adversarial"] for point in curve[1:])
    near = [int(point["k"]) for point in curve[1:] if point["adversarial"] + error(peak) >= peak]
    return {**found, "robust": (min(near), max(near))}


def _dimension(better: str, worse: str, which: str) -> Check:
    """That one method's dimension is larger: the ranges that both could have must not overlap."""

    def check(numbers: Numbers) -> Finding:
        (one, low, high), (other, least, most) = numbers[f"{better}, {which}"], numbers[f"{worse}, {which}"]
        text = (
            f"{which} dimension, {TITLES[better]} {one} ({low} to {high}) against {TITLES[worse]} {other} "
            f"({least} to {most})"
        )
        return Finding(HELD if low > most else FAILED if high < least else OPEN, text)

    return check


TABLE_3 = Item(
    key="dra/table-3",
    paper="DRA",
    title="Classification dimension and robust-aware dimension",
    products=lambda plan: {"analysis": plan.analysis},
    look=_table_3,
    claims=(
        Claim(
            "DRA raises the robust-aware dimension.",
            everyone(_dimension("at+dra", "at", "robust"), _dimension("dm-at+dra", "dm-at", "robust")),
        ),
        Claim(
            "DRA raises the classification dimension.",
            everyone(
                *(_dimension(f"{base}+dra", base, which) for base in ("at", "dm-at") for which in ("CLS-95", "CLS-99"))
            ),
        ),
        Claim(
            "Synthetic images lower the CLS-99 dimension (representations of lower rank).",
            everyone(_dimension("at", "dm-at", "CLS-99"), _dimension("at+dra", "dm-at+dra", "CLS-99")),
        ),
    ),
    printed=("dra-table-3",),
    contradictions=("Synthetic images raise CLS-95 of AT from 9 to 10 and the robust-aware dimension from 9 to 11.",),
    remark="Dimensions are read off flat curves. The ranges are numbers of components whose accuracy is within the 95% "
    "error of the images from the level, or from the peak; methods whose ranges overlap are not told apart.",
)
