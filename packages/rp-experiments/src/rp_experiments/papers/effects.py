"""The differences and numbers that stand in a claim's evidence, read back from its text.

Committed records hold verdicts and evidence as text, written by `claims.points`, `claims.between` and the rules there.
"""

import math
import re
from statistics import NormalDist
from typing import NamedTuple

from rp_experiments.papers.claims import FAILED, HELD, Verdict
from rp_experiments.statistics import Z

_NUMBER = r"[+-]?\d+\.?\d*(?:e[+-]?\d+)?"
_INTERVAL = re.compile(
    rf"(?P<estimate>{_NUMBER})(?P<points> points)? \[(?P<low>{_NUMBER}), (?P<high>{_NUMBER})\]%?"
    rf"(?:, p = (?P<p>{_NUMBER}))?"
    rf"(?: \(rule: (?P<rule>at least|within|at most|above) (?P<limit>zero|{_NUMBER}))?"
)
_RANKS = re.compile(rf"(?P<estimate>{_NUMBER}) \(p = (?P<p>{_NUMBER}), \d+ points\)")


class Effect(NamedTuple):
    """One difference or number with its 95% interval, and what the rule holds it against."""

    what: str  # in words
    estimate: float  # in points where `points`, else in the number's own unit
    low: float
    high: float
    p: float | None  # two-sided, of a difference from zero, by a paired test
    points: bool  # a difference of accuracies in points
    rule: str  # "at least", "at most" or "within"
    limit: float

    @property
    def error(self) -> float:
        """The standard error that the interval stands for."""
        return (self.high - self.low) / (2 * Z)

    def chance(self) -> float:
        """The two-sided p-value against the rule's limit: the paired test's, or that of the interval's error."""
        if self.p is not None and self.rule == "at least" and self.limit == 0:
            return self.p
        distance = self.limit - abs(self.estimate) if self.rule == "within" else self.estimate - self.limit
        side = self.estimate - self.low if distance > 0 else self.high - self.estimate
        if not distance or not side:  # an interval without a width decides all, or nothing
            return 0.0 if distance else 1.0
        return 2 * NormalDist().cdf(-abs(distance) / (side / Z))


def effects(evidence: str) -> list[Effect]:
    """Everything with an interval in an evidence, in its order."""
    return [_effect(evidence, found) for found in _INTERVAL.finditer(evidence)]


def _effect(evidence: str, found: re.Match[str]) -> Effect:
    numbers = {name: float(found[name]) for name in ("estimate", "low", "high")}
    rule = "at least" if found["rule"] in (None, "above") else found["rule"]
    limit = 0.0 if found["limit"] in (None, "zero") else float(found["limit"])
    p = None if found["p"] is None else float(found["p"])
    what = evidence[: found.start()].rpartition("; ")[2].rstrip(": ")
    return Effect(what, **numbers, p=p, points=found["points"] is not None, rule=rule, limit=limit)


def chance(verdict: Verdict, evidence: str) -> float | None:
    """The p-value of a claim, None where its evidence has no test.

    All parts of a claim must hold: the largest p-value counts where it held, the smallest, times their number, where it
    did not. A claim that is open has none below 5%, and counts as 1.

    Source: Berger 1982, Technometrics 24 (intersection-union tests); Bonferroni for the parts.
    """
    parts = [float(found["p"]) for found in _RANKS.finditer(evidence)] + [one.chance() for one in effects(evidence)]
    if not parts or any(math.isnan(part) for part in parts):
        return None
    if verdict == HELD:
        return max(parts)
    return min(1.0, min(parts) * len(parts)) if verdict == FAILED else 1.0
