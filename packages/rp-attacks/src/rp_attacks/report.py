"""The result of an evaluation: verdicts with intervals, beside their controls, as a table, as JSON, and as numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rp_attacks.cost import Cost
from rp_attacks.economy import Same
from rp_attacks.intervals import Comparison, Interval, accuracy_interval, paired_comparison, wilson_interval
from rp_attacks.norms import AnyNorm
from rp_attacks.record import Record

RESUBMISSIONS = 10  # N of the all-of-N verdict
Level = Literal["refused", "alarm", "warning", "note", "ok"]
GRAVITY: tuple[Level, ...] = ("refused", "alarm", "warning", "note", "ok")


class Finding(NamedTuple):
    """What one check of an evaluation saw."""

    level: Level
    """"refused": no number can be given; "alarm": the number is most likely too high; "note", "ok": for the reader."""
    check: str
    text: str


class Verdict(NamedTuple):
    """Three accuracies of a random defence on the same images; equal for a deterministic one."""

    per_query: Interval
    """Expected accuracy of one query: the headline."""
    majority: Interval
    """Accuracy of a vote over the K passes."""
    all_of_n: Interval
    """Share of images right in each of N passes: what is left if the attacker may submit N times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreatReport:
    """All that was seen in one ball."""

    norm: AnyNorm
    eps: float
    noise: Record  # control: random points of the ball
    attacks: Mapping[str, Record]
    worst: Record  # the worst candidate of each image, chosen by the selecting passes
    chosen: tuple[str, ...]  # which attack made it; "clean" where none did worse than the clean image
    images: Tensor  # those candidates, (n, c, h, w)
    same: Mapping[str, Same] = field(
        default_factory=dict
    )  # attacks for which another one stands, whose record is theirs

    @property
    def name(self) -> str:
        """Norm and radius, the Linf radius in 255ths."""
        return f"{self.norm} {self.eps * 255:.3g}/255" if self.norm == "linf" else f"{self.norm} {self.eps:.3g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """An evaluation; `print(report)` shows the table."""

    index: npt.NDArray[np.int64]  # (n,) the images' numbers in their data set
    labels: npt.NDArray[np.int64]
    clean: Record  # control
    threats: tuple[ThreatReport, ...]
    findings: tuple[Finding, ...]
    passes: int
    random: bool
    level: float
    problem: Mapping[str, Any]
    seconds: float
    network: int = 1  # calls of the defence's busiest layer in one pass, as those of a purifier's network

    @property
    def worst(self) -> Record:
        """The worst candidate of each image over all balls."""
        worst = self.clean
        for threat in self.threats:
            worst = threat.worst.where(threat.worst.worse_than(worst), worst)
        return worst

    @property
    def robust_accuracy(self) -> float:
        """Expected accuracy of one query on the worst candidates.

        Raises:
            ValueError: a finding says that the number cannot be what it claims.
        """
        refused = [finding.text for finding in self.findings if finding.level == "refused"]
        if refused:
            raise ValueError(f"no robust accuracy can be given: {' '.join(refused)}")
        return self.verdict(self.worst).per_query.estimate

    def verdict(self, record: Record) -> Verdict:
        """Accuracies of a record of this report, or of some rows of one, with their intervals.

        Raises:
            ValueError: the record is empty, as that of a process without a block is.
        """
        right, n = record.right, len(record)
        if n == 0:
            raise ValueError("no accuracy of no image: this process had no block; gather all with shard=(0, 1)")
        mean = right.mean(axis=1)
        vote = int((mean > 0.5).sum())
        every = int(right[:, :RESUBMISSIONS].all(axis=1).sum())
        per_query = accuracy_interval(right, self.level)
        return Verdict(per_query, wilson_interval(vote, n, self.level), wilson_interval(every, n, self.level))

    def compare(self, other: "Report") -> Comparison:
        """This defence against another one on the same images, under the worst of each one's attacks.

        Raises:
            ValueError: the two reports are about other images.
        """
        if not np.array_equal(self.index, other.index) or not np.array_equal(self.labels, other.labels):
            raise ValueError("the reports are about different images: a paired comparison needs the same ones")
        if self.problem["images"] != other.problem["images"]:
            raise ValueError("the reports' images have the same numbers but other pixels")
        mine, theirs = (report.worst.right.mean(axis=1) for report in (self, other))
        return paired_comparison(mine, theirs, self.level)

    @property
    def cost(self) -> Cost:
        """Passes and seconds of each image, over all that was run."""
        run = [threat.attacks[name] for threat in self.threats for name in threat.attacks if name not in threat.same]
        return Cost.of([self.clean, *(threat.noise for threat in self.threats), *run], self.network)

    def rows(self) -> list[tuple[str, str, int, Verdict | None]]:
        """(ball, name, images, verdict) of every control, attack and worst case, in the table's order.

        The images are those that an attack was run on, and the accuracy is what is left of all images after it; None
        where it met none.
        """
        rows = [("", "clean", self.clean)]
        for threat in self.threats:
            rows.append((threat.name, "random noise", threat.noise))
            for name, record in threat.attacks.items():
                rows.append((threat.name, name, record))
            rows.append((threat.name, "WORST CASE", threat.worst))
        if len(self.threats) > 1:
            rows.append(("all", "WORST CASE", self.worst))
        return [
            (ball, name, int(seen.tried.sum()), self.verdict(seen) if seen.tried.any() else None)
            for ball, name, seen in rows
        ]

    def __str__(self) -> str:
        verdicts = ["per query"] + (["majority", f"all of {min(self.passes, RESUBMISSIONS)}"] if self.random else [])
        lines = [
            f"{len(self.clean)} images, {self.passes} pass{'es' if self.passes > 1 else ''} each, "
            f"{100 * self.level:.0f}% intervals; attacks in order, each on the images still standing, "
            "with the accuracy left after it",
            "",
            "| ball | attack | images | " + " | ".join(verdicts) + " |",
            "|---|---|---|" + "---|" * len(verdicts),
        ]
        refused = any(finding.level == "refused" for finding in self.findings)
        for ball, name, images, verdict in self.rows():
            cells = ["none left"] * len(verdicts) if verdict is None else [str(v) for v in verdict[: len(verdicts)]]
            if refused and name == "WORST CASE":
                cells = ["REFUSED"] * len(verdicts)
            lines.append(f"| {ball} | {name} | {images} | " + " | ".join(cells) + " |")
        lines += ["", str(self.cost) if len(self.clean) else "", ""]
        lines += [*(f"{finding.level.upper()}: {finding.text}" for finding in self.findings)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the images, as plain lists and numbers for a JSON file."""
        table = [
            {"ball": ball, "name": name, "images": images}
            | ({} if verdict is None else {key: value._asdict() for key, value in verdict._asdict().items()})
            for ball, name, images, verdict in self.rows()
        ]
        balls = {
            threat.name: {
                "noise": threat.noise.right.mean(axis=1).tolist(),
                "worst": threat.worst.right.mean(axis=1).tolist(),
                "chosen": list(threat.chosen),
                "distance": threat.worst.distance.tolist(),
                "repeated": {name: same._asdict() for name, same in threat.same.items()},
            }
            for threat in self.threats
        }
        return {
            "problem": dict(self.problem),
            "images": {"index": self.index.tolist(), "labels": self.labels.tolist()},
            **{key: getattr(self, key) for key in ("passes", "random", "level", "seconds")},
            "table": table,
            "findings": [finding._asdict() for finding in self.findings],
            "cost": self.cost.to_json() if len(self.clean) else {},
            "per_image": {"clean": self.clean.right.mean(axis=1).tolist(), **balls},
        }
