"""Accelerator cards, and the share of their peak that a run is assumed to reach; does not import torch."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

SHARES = {"fp32": 0.7, "tf32": 0.4, "bf16": 0.4}
"""The share of the peak that is assumed, not measured: what good programs reach on large networks."""
USABLE = 0.9  # of a card's memory: the rest is for the allocator's rounding, the context and libraries' workspaces


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One kind of card."""

    name: str
    memory: int  # GB as sold, of which one counts as a GiB less what the system keeps
    fp32: float  # peak rates in 10^12 operations a second
    tf32: float
    bf16: float

    @property
    def usable(self) -> float:
        """Bytes that a run may plan with: 72 GiB of a card of 80 GB."""
        return USABLE * self.memory * 2**30

    def hours(self, flop: float, precision: str) -> float:
        """Hours of so many operations at the assumed share of the peak."""
        rate: float = getattr(self, precision)
        return flop / (rate * 1e12 * SHARES[precision]) / 3600


_TABLE = tomllib.loads(Path(__file__).with_name("cards.toml").read_text(encoding="utf-8"))
CARDS = {name: Card(name=name, **row) for name, row in _TABLE.items()}
