"""The stages of a run with what each takes, and how that is said."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rp_experiments import tables
from rp_experiments.estimate.cards import SHARES, USABLE, Card


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a run."""

    name: str  # "" for the main part of what is counted
    flop: float  # operations in all, of all cards together
    memory: float  # bytes on each card at the largest moment
    precision: str = "fp32"
    batch: int = 0  # images on each card at a time
    micro_batch: int | None = None  # of these, through the network at a time; 0: not even one fits; None: not asked
    checkpointing: bool = False  # whether blocks are computed again in the backward pass
    whole: float = 0.0  # bytes, if the whole batch went through at once
    disk: float = 0.0  # bytes that it leaves
    steps: int = 0  # of a training
    seconds: float | None = None  # of all steps, from some that were timed in one process; None: not measured
    note: str = ""

    def under(self, name: str) -> "Stage":
        """The same as a part of something larger."""
        return replace(self, name=f"{name}: {self.name}" if self.name else name)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run takes on so many cards of a kind."""

    stages: Sequence[Stage]
    card: Card
    cards: int = 1
    measured_on: str = ""  # the device on which steps were timed

    def hours(self, stage: Stage) -> float:
        """Hours of one stage: measured in one process, or those of the cards that share it."""
        if stage.seconds is not None:
            return stage.seconds / 3600
        return self.card.hours(stage.flop, stage.precision) / self.cards

    def rows(self) -> list[tables.Row]:
        """One line a stage."""
        return [
            {
                "stage": stage.name,
                "FLOP": f"{stage.flop:.2e}",
                "precision": stage.precision,
                "hours": f"{self.hours(stage):.2g}" if self.hours(stage) < 10 else f"{self.hours(stage):.0f}",
                **({"hours are": "assumed" if stage.seconds is None else "measured"} if self.measured_on else {}),
                "batch": stage.batch or None,
                "micro-batch": _micro(stage),
                "GiB": _gib(stage.memory),
                "GiB whole": _gib(stage.whole) if stage.whole > stage.memory else None,
                "disk GB": f"{stage.disk / 1e9:.2g}" if stage.disk else None,
                "note": stage.note,
            }
            for stage in self.stages
        ]

    def __str__(self) -> str:
        hours, disk = sum(map(self.hours, self.stages)), sum(stage.disk for stage in self.stages)
        largest = max((stage.memory for stage in self.stages), default=0.0)
        room = f"{_gib(largest)} GiB of the {self.card.usable / 2**30:.0f} that a card of {self.card.memory} GB"
        shares = ", ".join(f"{share:.0%} of {precision}'s" for precision, share in SHARES.items())
        return "\n".join(
            [
                tables.text(self.rows()),
                "",
                f"{hours:.3g} hours on {self.cards} x {self.card.name}, at most {room} has to plan with "
                f"({USABLE:.0%}); {disk / 1e9:.2g} GB of disk",
                "Operations and memory are counted on tensors without values; two operations for each multiplication "
                "with addition, matrix products, convolutions and attention only.",
                f"Hours are not measured: they assume {shares} peak rate."
                if not self.measured_on
                else f"Hours of trainings are measured in one process on {self.measured_on}; the "
                f"others assume {shares} peak rate of the card.",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        stages = [{**asdict(stage), "hours": self.hours(stage)} for stage in self.stages]
        return {"card": asdict(self.card), "cards": self.cards, "shares": SHARES, "stages": stages}


def _micro(stage: Stage) -> int | str | None:
    if stage.micro_batch == 0:
        return "does not fit"
    return f"{stage.micro_batch}, checkpointed" if stage.checkpointing else stage.micro_batch


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}" if size >= 2**30 else f"{size / 2**30:.2g}"
