"""Claims of the papers, each with a rule that looks at numbers and says whether it held.

Numbers are measured on few images, so there are three verdicts: a claim about a difference is held if the whole 95%
interval is on its side, it did not hold if the whole interval is on the other side, and it cannot be tested at this
scale if the interval contains zero. Differences image by image bring a p-value, which must be below 5% too.

Some products hold one number without any spread. Rules for those say "point estimate" in their evidence and decide
only where the numbers are far apart; see `exceeds` and `estimated`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple

Verdict = Literal["held", "did not hold", "not testable at this scale"]
HELD: Verdict = "held"
FAILED: Verdict = "did not hold"
OPEN: Verdict = "not testable at this scale"
VERDICTS: tuple[Verdict, ...] = (HELD, FAILED, OPEN)

MARGIN = 0.2  # share of the larger of two point estimates by which they must differ
LEVEL = 0.05  # that a p-value must stay below
Z = 1.959964  # of a 95% interval

Numbers = Mapping[str, Any]
Limits = Mapping[str, float]  # of an interval: estimate, low, high; where the images are the same also p


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


def reaches(name: str, least: float, what: str, *, percent: bool = False) -> Check:
    """Held if the interval `numbers[name]` begins at `least` or above; it fails if it ends below.

    Args:
        name: of an interval among the numbers; None where there is none.
        least: the smallest value that the claim allows.
        what: the number in words.
        percent: whether it is a share, to be shown in percent.
    """
    factor, unit = (100.0, "%") if percent else (1.0, "")

    def check(numbers: Numbers) -> Finding:
        limits = numbers[name]
        if limits is None:
            return Finding(OPEN, f"{what}: not defined on these images")
        verdict = HELD if limits["low"] >= least < limits["high"] else FAILED if limits["high"] < least else OPEN
        return Finding(verdict, f"{what}: {between(limits, factor)}{unit} (rule: at least {factor * least:.3g}{unit})")

    return check


def lowest(name: str, least: float, what: str, *, percent: bool = False) -> Check:
    """Held if each of several intervals begins at `least` or above.

    It fails if one ends below at a level that counts how many there are: the lowest of many is low by chance.

    Args:
        name: of a list of intervals among the numbers; None for one that is not defined.
        least: the smallest value that the claim allows.
        what: the numbers in words.
        percent: whether they are shares, to be shown in percent.
    """
    factor, unit = (100.0, "%") if percent else (1.0, "")

    def check(numbers: Numbers) -> Finding:
        several = list(numbers[name])
        if not several or any(limits is None for limits in several):
            return Finding(OPEN, f"{what}: not defined on these images")
        above = all(limits["low"] >= least < limits["high"] for limits in several)
        below = any(widened(limits, len(several))["high"] < least for limits in several)
        shown = between(min(several, key=lambda limits: limits["estimate"]), factor)
        text = f"{what}, lowest of {len(several)}: {shown}{unit} (rule: at least {factor * least:.3g}{unit})"
        return Finding(HELD if above else FAILED if below else OPEN, text)

    return check


def close(name: str, margin: float, what: str) -> Check:
    """Held if the whole interval of a difference of shares lies within the margin, failed if it lies outside."""

    def check(numbers: Numbers) -> Finding:
        gap = numbers[name]
        inside, outside = gap["low"] >= -margin and gap["high"] <= margin, gap["low"] > margin or gap["high"] < -margin
        verdict = HELD if inside else FAILED if outside else OPEN
        return Finding(verdict, f"{what}: {points(gap)} (rule: within {100 * margin:.3g} points)")

    return check


def together(names: Iterable[str], sign: int, least: float, what: str) -> Check:
    """Held if rank correlations all have this sign, reach `least` in size and have a permutation p-value below 5%.

    It fails if one of them is as sure in the other direction. With so few points that even a perfect order has a larger
    p-value nothing can be said.

    Args:
        names: of rank tests among the numbers: estimate, p and number of points.
        sign: +1 if ranks should rise together, -1 if one should fall as the other rises.
        least: size of a correlation from which two numbers are said to move together.
        what: the correlations in words.
    """

    def check(numbers: Numbers) -> Finding:
        found = [numbers[name] for name in names]
        if any(test is None for test in found):
            return Finding(OPEN, f"{what}: not measured")
        verdicts = [_direction(sign, least, **{key: test[key] for key in ("estimate", "p")}) for test in found]
        text = ", ".join(
            f"{name.rpartition(', ')[2]} {test['estimate']:+.2f} (p = {test['p']:.2g}, {test['points']:.0f} points)"
            for name, test in zip(names, found, strict=True)
        )
        return Finding(combined(verdicts), f"{what}: {text}")

    names = tuple(names)
    return check


def exceeds(first: str, second: str, what: str, *, unit: str = "") -> Check:
    """For two plain numbers without any spread: held if the first is larger by a fifth of the larger one in size.

    It fails if the second is larger by as much; nearer numbers are not told apart.
    """

    def check(numbers: Numbers) -> Finding:
        one, other = float(numbers[first]), float(numbers[second])
        enough = MARGIN * max(abs(one), abs(other))
        verdict = HELD if one - other >= enough > 0 else FAILED if other - one >= enough > 0 else OPEN
        rule = f"point estimates, no interval; rule: {100 * MARGIN:.0f}% apart"
        return Finding(verdict, f"{what}: {one:.3g}{unit} against {other:.3g}{unit} ({rule})")

    return check


def estimated(name: str, what: str, *, held: float, failed: float, unit: str = "") -> Check:
    """For a plain number without any spread: held from one value on, failed from another one on, nothing between.

    Args:
        name: of a number; None where there is none.
        what: the number in words.
        held: the claim is held there and beyond, seen from `failed`.
        failed: the claim did not hold there and beyond, seen from `held`.
        unit: of the number.
    """
    sign = 1 if held > failed else -1

    def check(numbers: Numbers) -> Finding:
        if numbers[name] is None:
            return Finding(OPEN, f"{what}: not measured")
        value = float(numbers[name])
        verdict = HELD if sign * value >= sign * held else FAILED if sign * value <= sign * failed else OPEN
        rule = f"point estimate, no interval; rule: held from {held:.3g}, failed from {failed:.3g}"
        return Finding(verdict, f"{what}: {value:.3g}{unit} ({rule})")

    return check


def everyone(*checks: Check) -> Check:
    """Held if all are; one that did not hold decides, then one that cannot be tested."""

    def check(numbers: Numbers) -> Finding:
        findings = [one(numbers) for one in checks]
        return Finding(
            combined(finding.verdict for finding in findings), "; ".join(finding.evidence for finding in findings)
        )

    return check


def everywhere(check: Check) -> Check:
    """Held if it is for every data set or run: `numbers["places"]` holds the numbers of each by its name."""

    def judge(numbers: Numbers) -> Finding:
        findings = {place: check(inner) for place, inner in numbers["places"].items()}
        if len(findings) == 1:
            return next(iter(findings.values()))
        text = "; ".join(f"{place}: {finding.evidence}" for place, finding in findings.items())
        return Finding(combined(finding.verdict for finding in findings.values()), text or "nothing here has these")

    return judge


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on several parts of a claim: all must hold."""
    found = set(verdicts)
    return FAILED if FAILED in found else OPEN if OPEN in found or not found else HELD


def sign_of(difference: Limits) -> Verdict:
    """The verdict on a difference that should be positive."""
    if difference.get("p", 0.0) >= LEVEL:
        return OPEN
    return HELD if difference["low"] > 0 else FAILED if difference["high"] < 0 else OPEN


def points(difference: Limits) -> str:
    """`+3.0 points [-1.2, +7.1], p = 0.18`."""
    estimate, low, high = (100 * difference[key] for key in ("estimate", "low", "high"))
    p = difference.get("p")
    return f"{estimate:+.1f} points [{low:+.1f}, {high:+.1f}]" + (f", p = {p:.2g}" if p is not None else "")


def widened(limits: Limits, tries: int) -> Limits:
    """The same interval at a level that holds for `tries` of them together (Bonferroni)."""
    factor = NormalDist().inv_cdf(1 - LEVEL / 2 / max(1, tries)) / Z
    low, high = (limits["estimate"] + factor * (limits[key] - limits["estimate"]) for key in ("low", "high"))
    return {"estimate": limits["estimate"], "low": low, "high": high}


def between(limits: Limits, factor: float = 1.0) -> str:
    """`0.83 [0.71, 0.9]`, each times a factor."""
    return "{:.3g} [{:.3g}, {:.3g}]".format(*(factor * limits[key] for key in ("estimate", "low", "high")))


def _direction(sign: int, least: float, *, estimate: float, p: float) -> Verdict:
    """The verdict on a rank correlation that should have a sign."""
    if not p < LEVEL:  # NaN where one of the two is constant
        return OPEN
    return HELD if sign * estimate >= least else FAILED if sign * estimate < 0 else OPEN
