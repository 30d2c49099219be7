"""Claims of the papers, each with a rule that looks at numbers and says whether it held.

Numbers are measured on few images, so there are three verdicts: a claim about a difference is held if the whole 95%
interval is on its side, it did not hold if the whole interval is on the other side, and it cannot be tested at this
scale if the interval contains zero. Differences image by image bring a p-value, which must be below 5% too.

Some products hold one number without any spread. Rules for those say "point estimate" in their evidence and decide
only where the numbers are far apart; see `exceeds` and `estimated`.

A number that a scale does not have is there as None; a name that is not there at all is an error.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from rp_experiments import results
from rp_experiments.results import LIMITS, Limits
from rp_experiments.statistics import widened

Verdict = Literal["held", "did not hold", "not testable at this scale", "needs other data"]
HELD: Verdict = "held"
FAILED: Verdict = "did not hold"
OPEN: Verdict = "not testable at this scale"
ELSEWHERE: Verdict = "needs other data"  # no rule says this: the claim names data sets that a scale does not have
VERDICTS: tuple[Verdict, ...] = (HELD, FAILED, OPEN, ELSEWHERE)

MARGIN = 0.2  # share of the larger of two point estimates by which they must differ
LEVEL = 0.05  # that a p-value must stay below

Numbers = Mapping[str, Any]


class Judgement(NamedTuple):
    """What became of a claim, and one sentence of evidence."""

    verdict: Verdict
    evidence: str


Check = Callable[[Numbers], Judgement]
RULES: dict[str, Callable[..., Check]] = {}  # by the names that the tables of claims use


class UnknownNumber(LookupError):
    """A claim asks for a number that its item never gives."""


@dataclass(frozen=True)
class Claim:
    """One sentence that a paper says, and the rule that checks it."""

    text: str
    check: Check
    needs: tuple[str, ...] = ()  # data sets without one of which nothing can be said; () for any

    def judge(self, numbers: Numbers) -> Judgement:
        """The verdict on these numbers; UnknownNumber if the rule asks for one that is not there, not even as None."""
        try:
            return self.check(numbers)
        except KeyError as error:
            known = ", ".join(map(repr, numbers)) or "none"
            raise UnknownNumber(f"claim {self.text!r} asks for {error}; there are: {known}") from error


def rule(make: Callable[..., Check]) -> Callable[..., Check]:
    """Let the tables of claims use a function that makes checks, by its name."""
    RULES[make.__name__] = make
    return make


def check_of(words: Sequence[Any]) -> Check:
    """The check that a table spells: a rule's name and its arguments, which may be checks; options come as a table."""
    name, *arguments = words
    options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    nested = (one[0] in RULES if isinstance(one, list) else False for one in arguments)
    return RULES[name](
        *(check_of(one) if deep else one for one, deep in zip(arguments, nested, strict=True)), **options
    )


def decided(what: str, *names: str, by: Callable[..., tuple[Verdict, str]]) -> Check:
    """A check of the numbers of these names; open where this scale does not have one of them."""

    def check(numbers: Numbers) -> Judgement:
        values = [numbers[name] for name in names]
        if any(value is None for value in values):
            return Judgement(OPEN, f"{what}: no number at this scale")
        verdict, text = by(*values)
        return Judgement(verdict, f"{what}: {text}")

    return check


@rule
def larger(name: str, what: str) -> Check:
    """Held if a difference, in shares of images, is positive; `what` says it in words."""
    return decided(what, name, by=lambda gap: (sign_of(gap), points(gap)))


@rule
def reaches(name: str, least: float, what: str, *, percent: bool = False) -> Check:
    """Held if an interval begins at `least` or above; it fails if it ends below."""
    factor, unit = (100.0, "%") if percent else (1.0, "")

    def by(limits: Limits) -> tuple[Verdict, str]:
        verdict = HELD if limits["low"] >= least < limits["high"] else FAILED if limits["high"] < least else OPEN
        return verdict, f"{between(limits, factor)}{unit} (rule: at least {factor * least:.3g}{unit})"

    return decided(what, name, by=by)


@rule
def lowest(name: str, least: float, what: str, *, percent: bool = False) -> Check:
    """Held if each of several intervals begins at `least` or above.

    It fails if one ends below at a level that counts how many there are: the lowest of many is low by chance.
    """
    factor, unit = (100.0, "%") if percent else (1.0, "")

    def by(several: Sequence[Limits | None]) -> tuple[Verdict, str]:
        found = [limits for limits in several if limits is not None]
        if not found or len(found) < len(several):
            return OPEN, "not defined on these images"
        above = all(limits["low"] >= least < limits["high"] for limits in found)
        below = any(widened(limits, len(found))["high"] < least for limits in found)
        shown = between(min(found, key=lambda limits: limits["estimate"]), factor)
        text = f"lowest of {len(found)}: {shown}{unit} (rule: at least {factor * least:.3g}{unit})"
        return HELD if above else FAILED if below else OPEN, text

    return decided(what, name, by=by)


@rule
def close(name: str, margin: float, what: str) -> Check:
    """Held if the whole interval of a difference of shares lies within the margin, failed if it lies outside."""

    def by(gap: Limits) -> tuple[Verdict, str]:
        inside, outside = gap["low"] >= -margin and gap["high"] <= margin, gap["low"] > margin or gap["high"] < -margin
        verdict = HELD if inside else FAILED if outside else OPEN
        return verdict, f"{points(gap)} (rule: within {100 * margin:.3g} points)"

    return decided(what, name, by=by)


@rule
def together(names: Sequence[str], sign: int, least: float, what: str) -> Check:
    """Held if rank correlations all have this sign, reach `least` in size and have a permutation p-value below 5%.

    It fails if one of them is as sure in the other direction. With so few points that even a perfect order has a larger
    p-value nothing can be said.
    """

    def by(*tests: Mapping[str, float]) -> tuple[Verdict, str]:
        text = ", ".join(
            f"{name.rpartition(', ')[2]} {test['estimate']:+.2f} (p = {test['p']:.2g}, {test['points']:.0f} points)"
            for name, test in zip(names, tests, strict=True)
        )
        return combined(_direction(sign, least, test["estimate"], test["p"]) for test in tests), text

    return decided(what, *names, by=by)


@rule
def exceeds(first: str, second: str, what: str, *, unit: str = "") -> Check:
    """For two plain numbers without any spread: held if the first is larger by a fifth of the larger one in size.

    It fails if the second is larger by as much; nearer numbers are not told apart.
    """

    def by(one: float, other: float) -> tuple[Verdict, str]:
        one, other = float(one), float(other)
        enough = MARGIN * max(abs(one), abs(other))
        verdict = HELD if one - other >= enough > 0 else FAILED if other - one >= enough > 0 else OPEN
        apart = f"point estimates, no interval; rule: {100 * MARGIN:.0f}% apart"
        return verdict, f"{one:.3g}{unit} against {other:.3g}{unit} ({apart})"

    return decided(what, first, second, by=by)


@rule
def estimated(name: str, what: str, *, held: float, failed: float, unit: str = "") -> Check:
    """For a plain number without any spread: held from one value on, failed from another one on, nothing between."""
    sign = 1 if held > failed else -1

    def by(value: float) -> tuple[Verdict, str]:
        value = float(value)
        verdict = HELD if sign * value >= sign * held else FAILED if sign * value <= sign * failed else OPEN
        limits = f"point estimate, no interval; rule: held from {held:.3g}, failed from {failed:.3g}"
        return verdict, f"{value:.3g}{unit} ({limits})"

    return decided(what, name, by=by)


@rule
def everyone(*checks: Check) -> Check:
    """Held if all are; one that did not hold decides, then one that cannot be tested."""

    def check(numbers: Numbers) -> Judgement:
        found = [one(numbers) for one in checks]
        return Judgement(combined(one.verdict for one in found), "; ".join(one.evidence for one in found))

    return check


@rule
def everywhere(check: Check) -> Check:
    """Held if it is for every data set or run: `numbers["places"]` holds the numbers of each by its name.

    One that is still to come has None there, and leaves the claim open unless it failed elsewhere.
    """

    def judge(numbers: Numbers) -> Judgement:
        found = {place: check_of_place(check, inner) for place, inner in numbers["places"].items()}
        if len(found) == 1:
            return next(iter(found.values()))
        text = "; ".join(f"{place}: {one.evidence}" for place, one in found.items())
        return Judgement(combined(one.verdict for one in found.values()), text or "nothing here has these")

    return judge


@rule
def in_place(place: str, check: Check, missing: str) -> Check:
    """A check of the numbers of one data set or run, where the scale has it."""

    def judge(numbers: Numbers) -> Judgement:
        places = numbers["places"]
        return check_of_place(check, places[place]) if place in places else Judgement(OPEN, missing)

    return judge


@rule
def at_first(check: Check) -> Check:
    """A check of the numbers of the scale's first data set."""
    return lambda numbers: check_of_place(check, next(iter(numbers["places"].values())))


def check_of_place(check: Check, numbers: Numbers | None) -> Judgement:
    """A check of one data set or run, whose numbers may be still to come."""
    return Judgement(OPEN, "not made yet") if numbers is None else check(numbers)


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on several parts of a claim: all must hold."""
    found = set(verdicts)
    return FAILED if FAILED in found else OPEN if OPEN in found or not found else HELD


def sign_of(difference: Limits) -> Verdict:
    """The verdict on a difference that should be positive."""
    if difference.get("p", 0.0) >= LEVEL:
        return OPEN
    return HELD if difference["low"] > 0 else FAILED if difference["high"] < 0 else OPEN


def in_one_direction(gaps: Mapping[str, Limits], name: str) -> tuple[Verdict, str]:
    """Held if some difference is above zero and none below, failed the other way round; 95% for all of them."""
    wide = [widened(gap, len(gaps)) for gap in gaps.values()]
    above, below = any(gap["low"] > 0 for gap in wide), any(gap["high"] < 0 for gap in wide)
    text = ", ".join(f"{name} {place} {points(gap)}" for place, gap in zip(gaps, wide, strict=True))
    return HELD if above and not below else FAILED if below and not above else OPEN, text


def points(difference: Limits) -> str:
    """`+3.0 points [-1.2, +7.1], p = 0.18`."""
    estimate, limits = results.points(difference).split(" ", 1)
    p = difference.get("p")
    return f"{estimate} points {limits}" + (f", p = {p:.2g}" if p is not None else "")


def between(limits: Limits, factor: float = 1.0) -> str:
    """`0.83 [0.71, 0.9]`, each times a factor."""
    return "{:.3g} [{:.3g}, {:.3g}]".format(*(factor * limits[key] for key in LIMITS))


def _direction(sign: int, least: float, estimate: float, p: float) -> Verdict:
    """The verdict on a rank correlation that should have a sign."""
    if not p < LEVEL:  # NaN where one of the two is constant
        return OPEN
    return HELD if sign * estimate >= least else FAILED if sign * estimate < 0 else OPEN
