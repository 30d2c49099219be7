"""Claims of the papers, each with a rule that looks at numbers and says whether it held.

Numbers are measured on few images, so there are three verdicts: a claim about a difference is held if the whole 95%
interval is on its side, it did not hold if the whole interval is on the other side, and it cannot be tested at this
scale if the interval contains zero.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Verdict = Literal["held", "did not hold", "not testable at this scale"]
HELD: Verdict = "held"
FAILED: Verdict = "did not hold"
OPEN: Verdict = "not testable at this scale"
VERDICTS: tuple[Verdict, ...] = (HELD, FAILED, OPEN)

Numbers = Mapping[str, Any]
Limits = Mapping[str, float]  # of an interval: estimate, low, high


class Finding(NamedTuple):
    """What became of a claim, and one sentence of evidence."""

    verdict: Verdict
    evidence: str


Check = Callable[[Numbers], Finding]


@dataclass(frozen=True)
class Claim:
    """One sentence that a paper says, and the rule that checks it."""

    text: str
    check: Check

    def judge(self, numbers: Numbers) -> Finding:
        """The verdict on these numbers; a number that is not there makes the claim not testable."""
        try:
            return self.check(numbers)
        except KeyError as error:
            return Finding(OPEN, f"no number for {error.args[0]}")


def larger(name: str, what: str) -> Check:
    """Held if the difference `numbers[name]`, in shares of images, is positive.

    Args:
        name: of an interval among the numbers.
        what: the difference in words, e.g. "RMAE-Pure minus MAE-Pure, worst case".
    """

    def check(numbers: Numbers) -> Finding:
        difference = numbers[name]
        return Finding(sign_of(difference), f"{what}: {points(difference)}")

    return check


def reaches(name: str, least: float, what: str, *, unit: str = "") -> Check:
    """Held if the plain number `numbers[name]` is at least `least`."""

    def check(numbers: Numbers) -> Finding:
        value = float(numbers[name])
        return Finding(HELD if value >= least else FAILED, f"{what}: {value:.3g}{unit} (rule: at least {least:.3g})")

    return check


def above(first: str, second: str, what: str, *, unit: str = "") -> Check:
    """Held if the plain number `numbers[first]` is larger than `numbers[second]`."""

    def check(numbers: Numbers) -> Finding:
        one, other = float(numbers[first]), float(numbers[second])
        return Finding(HELD if one > other else FAILED, f"{what}: {one:.3g}{unit} against {other:.3g}{unit}")

    return check


def everyone(*checks: Check) -> Check:
    """Held if all are; one that did not hold decides, then one that cannot be tested."""

    def check(numbers: Numbers) -> Finding:
        findings = [one(numbers) for one in checks]
        verdicts = {finding.verdict for finding in findings}
        verdict = FAILED if FAILED in verdicts else OPEN if OPEN in verdicts else HELD
        return Finding(verdict, "; ".join(finding.evidence for finding in findings))

    return check


def sign_of(difference: Limits) -> Verdict:
    """The verdict on a difference that should be positive."""
    return HELD if difference["low"] > 0 else FAILED if difference["high"] < 0 else OPEN


def points(difference: Limits) -> str:
    """`+3.0 points [-1.2, +7.1]`."""
    estimate, low, high = (100 * difference[key] for key in ("estimate", "low", "high"))
    return f"{estimate:+.1f} points [{low:+.1f}, {high:+.1f}]"
