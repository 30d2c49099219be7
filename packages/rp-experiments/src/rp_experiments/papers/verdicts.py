"""The papers' claims with their verdicts at several scales, corrected for their number, and what would decide more."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rp_models.data.catalog import CATALOG

from rp_experiments.papers.claims import ELSEWHERE, LEVEL, OPEN, Claim, Verdict
from rp_experiments.papers.effects import Effect, chance, effects
from rp_experiments.papers.item import Item, Paper
from rp_experiments.papers.power import Needed, needed
from rp_experiments.statistics import holm

Record = Mapping[str, Any]  # what an item's file holds


class Found(NamedTuple):
    """What one scale says of a claim."""

    verdict: Verdict
    evidence: str
    effects: Sequence[Effect]  # differences and numbers with intervals
    corrected: float | None  # p-value after Holm's correction; None where nothing was tested

    @property
    def note(self) -> str:
        """What weakens a decision: no test, or a p-value that the correction takes above 5%; else ""."""
        if self.verdict in (OPEN, ELSEWHERE):
            return ""
        if self.corrected is None:
            return "no interval"
        return "" if self.corrected < LEVEL else f"not after correction, p = {self.corrected:.2g}"

    @property
    def words(self) -> str:
        """`held`, or `held (not after correction, p = 0.12)`."""
        return f"{self.verdict} ({self.note})" if self.note else self.verdict


class Judged(NamedTuple):
    """One claim, and what was found by scale."""

    item: Item
    claim: Claim
    found: Mapping[str, Found]

    @property
    def name(self) -> tuple[str, str]:
        """What tells it from all others."""
        return self.item.key, self.claim.text

    @property
    def apart(self) -> bool:
        """Whether no scale has the data that it needs."""
        return bool(self.claim.needs) and all(found.verdict == ELSEWHERE for found in self.found.values())


def judged(items: Sequence[Item], records: Mapping[str, Mapping[str, Record]]) -> list[Judged]:
    """Every claim, given the records of items by scale and key."""
    rows = [
        Judged(item, claim, {s: _found(claim, number, of[item.key]) for s, of in records.items() if item.key in of})
        for item in items
        for number, claim in enumerate(item.claims)
    ]
    corrected = dict[tuple[tuple[str, str], str], float]()
    for scale in records:
        for paper in {item.paper for item in items}:
            chances = {row.name: _chance(row, scale) for row in rows if row.item.paper == paper}
            known = {name: p for name, p in chances.items() if p is not None}
            corrected |= {(name, scale): p for name, p in zip(known, holm([*known.values()]), strict=True)}
    return [
        row._replace(found={s: one._replace(corrected=corrected.get((row.name, s))) for s, one in row.found.items()})
        for row in rows
    ]


def _found(claim: Claim, number: int, record: Record) -> Found:
    """A claim's entry in an item's record; it needs other data where it is open and the record has none of those."""
    verdict, evidence = record["claims"][number]["verdict"], record["claims"][number]["evidence"]
    here = {product["setting"].get("data") for product in record["products"].values()}
    if verdict == OPEN and claim.needs and not here & {*claim.needs}:
        verdict = ELSEWHERE
    return Found(verdict, evidence, effects(evidence), None)


def _chance(row: Judged, scale: str) -> float | None:
    found = row.found.get(scale)
    return None if found is None or found.verdict == ELSEWHERE else chance(found.verdict, found.evidence)


def tested(rows: Sequence[Judged], paper: Paper, scale: str) -> int:
    """How many claims of a paper the correction counts at a scale."""
    return sum(
        row.item.paper == paper and scale in row.found and row.found[scale].corrected is not None for row in rows
    )


class Decision(NamedTuple):
    """What decides a claim at a scale: all of its parts must be decided."""

    row: Judged
    scale: str
    parts: Sequence[Needed]
    available: int  # test images of the data set

    @property
    def images(self) -> int:
        """Test images that decide the part that needs most."""
        return max(part.needed for part in self.parts)

    @property
    def seconds(self) -> float:
        """Of one core, for that part."""
        return max(part.seconds for part in self.parts)

    @property
    def possible(self) -> bool:
        """Whether the data set has so many test images."""
        return self.images <= self.available


def decisions(rows: Sequence[Judged], records: Mapping[str, Mapping[str, Record]]) -> list[Decision]:
    """What would decide the claims about differences of accuracies that are open, or decided without the correction.

    The cheapest come first; those that no number of the data set's test images decides come last.
    """
    found = []
    for row in rows:
        for scale, one in row.found.items():
            settled = one.corrected is not None and one.corrected < LEVEL
            if (
                one.verdict == ELSEWHERE
                or settled
                or not one.effects
                or not all(effect.points for effect in one.effects)
            ):
                continue
            record, number = records[scale][row.item.key], max(1, tested(rows, row.item.paper, scale))
            parts = [needed(row.claim.text, effect, row.item.printed, record, number) for effect in one.effects]
            if all(parts):
                data = next(of["setting"]["data"] for of in record["products"].values())
                found.append(Decision(row, scale, [part for part in parts if part], _test_images(data)))
    return sorted(found, key=lambda one: (not one.possible, one.seconds))


def _test_images(data: str) -> int:
    return CATALOG[data].split_sizes["test"] if data in CATALOG else sys.maxsize


def command(item: Item) -> str:
    """What makes an item on the papers' own data."""
    return f"uv run apps/reproduce.py {item.key} --scale paper"


def hours(file: Path) -> dict[str, float]:
    """GPU-hours of items at the papers' scale by key, from `hours-paper.json`; empty where it is not there."""
    return json.loads(file.read_text(encoding="utf-8"))["hours"] if file.is_file() else {}
