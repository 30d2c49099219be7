"""Hours, memory and disk of the products of `reproduce.py`, from the table of counts; importing this imports no torch.

`python -m rp_experiments.estimate.costs` makes the table.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rp_experiments.artifacts import Artifact
from rp_experiments.estimate.cards import CARDS, Card
from rp_experiments.estimate.pieces import Piece, pieces_of
from rp_experiments.estimate.stages import Stage

TABLE = Path(__file__).with_name("counted.json")
CARD = "H100"  # for whose memory the table's micro-batches are chosen
Table = Mapping[str, Mapping[str, Any]]
"""By the key of a piece its name and its stages."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a product takes at most."""

    hours: float  # of so many cards together, at the assumed share of their peak
    memory: float  # bytes on each card at the largest moment
    disk: float  # bytes that it leaves
    missing: tuple[str, ...] = ()  # pieces that are not in the table


def cost_of(artifact: Artifact, *, card: Card = CARDS[CARD], cards: int = 1) -> Cost:
    """What one product takes, without the products that it needs.

    Memory is that of one card which does all the work, with micro-batches that fit 80 GB.
    """
    return total(pieces_of(artifact), read(), card=card, cards=cards)


def total(pieces: Iterable[Piece], table: Table, *, card: Card = CARDS[CARD], cards: int = 1) -> Cost:
    """The cost of some pieces, by a table; those that are not in it are named."""
    hours, memory, disk, missing = 0.0, 0.0, 0.0, list[str]()
    for piece in pieces:
        found = stages_in(table, piece)
        if found is None:
            missing.append(piece.name)
        for stage in found or ():
            hours += card.hours(stage.flop, stage.precision) / cards
            memory, disk = max(memory, stage.memory), disk + stage.disk
    return Cost(hours=hours, memory=memory, disk=disk, missing=tuple(missing))


def stages_in(table: Table, piece: Piece) -> list[Stage] | None:
    """The stages of a piece under its name; None where the table does not have it."""
    found = table.get(piece.key)
    return None if found is None else [Stage(**stage).under(piece.name) for stage in found["stages"]]


@cache
def read(path: Path = TABLE) -> Table:
    """The table of counts; empty where there is none."""
    found: Table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
