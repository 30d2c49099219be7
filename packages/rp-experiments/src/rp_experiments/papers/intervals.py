"""Intervals of the numbers in finished products, and of their differences: what a verdict rests on."""

import itertools
import math
import random
from collections.abc import Mapping, Sequence

from rp_experiments.papers.claims import Limits, Z

_EXACT = 8  # points up to which all permutations are tried; beyond, _DRAWS random ones
_DRAWS = 20_000


def paired(first: Sequence[float], second: Sequence[float]) -> Limits:
    """First minus second on the same images, in the same order, with the p-value of flipping the differences' signs.

    The interval is Newcombe's for right and wrong, a bootstrap over images for shares of passes. The p-value guards
    against both where few images tell the two apart; for right and wrong it is McNemar's exact one.

    Args:
        first: share of right passes of each image.
        second: the same of the other system.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10; McNemar 1947; Fisher 1935.
    """
    from rp_attacks.intervals import paired_comparison

    found = paired_comparison(list(first), list(second))
    if {*first, *second} <= {0, 1}:
        return {**_newcombe(first, second), "p": found.p_value}
    return {**found.difference._asdict(), "p": sign_flips(first, second)}


def all_pairs(rows: Mapping[str, Sequence[float]], suffix: str = "") -> dict[str, Limits]:
    """First minus second for every pair of systems on the same images, both ways round: `rmae_pure>mae_pure`."""
    found: dict[str, Limits] = {}
    for a, b in itertools.combinations(rows, 2):
        difference = paired(rows[a], rows[b])
        found[f"{a}>{b}{suffix}"] = difference
        opposite = {"estimate": difference["estimate"], "low": difference["high"], "high": difference["low"]}
        turned = {key: 0.0 - value for key, value in opposite.items()}  # no minus before a zero
        found[f"{b}>{a}{suffix}"] = {**turned, "p": difference["p"]}
    return found


def sign_flips(first: Sequence[float], second: Sequence[float]) -> float:
    """The two-sided p-value of a mean difference when each image's difference could as well have the other sign.

    Source: Fisher 1935, The Design of Experiments; all flips up to 12 differences, otherwise 20,000 random ones.
    """
    import numpy as np

    gaps = np.array([a - b for a, b in zip(first, second, strict=True) if a != b])
    if len(gaps) == 0:
        return 1.0
    reached = abs(gaps.sum()) - 1e-9
    if len(gaps) <= 12:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(gaps))))
        return float((abs(signs @ gaps) >= reached).mean())
    signs = np.random.default_rng(0).choice((-1, 1), size=(_DRAWS, len(gaps)))
    return float((1 + (abs(signs @ gaps) >= reached).sum()) / (1 + _DRAWS))


def separate(first: Limits, second: Limits, factor: float = 1.0) -> Limits:
    """First minus `factor` times second of two accuracies, from the limits of both as if their images were others.

    On the same images the interval is wider than it need be, since right answers go together.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10; Zou and Donner 2008 for the factor.
    """
    difference = first["estimate"] - factor * second["estimate"]
    down = math.hypot(first["estimate"] - first["low"], factor * (second["high"] - second["estimate"]))
    up = math.hypot(first["high"] - first["estimate"], factor * (second["estimate"] - second["low"]))
    return {"estimate": difference, "low": difference - down, "high": difference + up}


def share_of(percent: float, images: int) -> Limits:
    """Wilson's interval of a share of images that is known in percent."""
    from rp_attacks.intervals import wilson_interval

    return wilson_interval(round(percent * images / 100), images)._asdict()


def of_means(*terms: tuple[float, float, float]) -> Limits:
    """A sum of means over images, each (weight, mean, standard error), as if their errors were independent.

    For a difference on the same images the interval is wider than it need be, since errors go together.
    """
    estimate = sum(weight * mean for weight, mean, _ in terms)
    half = Z * math.hypot(*(weight * error for weight, _, error in terms))
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def correlation(estimate: float, images: int) -> Limits | None:
    """The interval of a rank correlation over images; None for fewer than four.

    Source: Fisher's z with the variance 1.06 / (n - 3), Fieller, Hartley and Pearson 1957, Biometrika 44.
    """
    if images < 4 or not -1 <= estimate <= 1:
        return None
    centre = math.atanh(max(-0.999999, min(0.999999, estimate)))
    half = Z * math.sqrt(1.06 / (images - 3))
    return {"estimate": estimate, "low": math.tanh(centre - half), "high": math.tanh(centre + half)}


def rank_test(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation of two sequences with its two-sided permutation p-value and the number of points.

    All permutations up to eight points, otherwise 20,000 random ones; a p-value of 1 where one sequence is constant.
    """
    from rp_analysis import rank_correlation

    estimate = rank_correlation(x, y)
    if estimate != estimate:
        return {"estimate": 0.0, "p": 1.0, "points": len(x)}
    return {"estimate": max(-1.0, min(1.0, estimate)), "p": _permutation_p(_ranks(x), _ranks(y)), "points": len(x)}


def _permutation_p(x: Sequence[float], y: Sequence[float]) -> float:
    """How often shuffled ranks agree or disagree as much as these."""
    mean = sum(x) / len(x)
    centred = [value - mean for value in x]

    def agreement(order: Sequence[float]) -> float:
        return abs(sum(a * b for a, b in zip(centred, order, strict=True)))

    reached = agreement(y) - 1e-9
    if len(y) <= _EXACT:
        orders = list(itertools.permutations(y))
        return sum(agreement(order) >= reached for order in orders) / len(orders)
    generator = random.Random(0)
    return (1 + sum(agreement(generator.sample(y, len(y))) >= reached for _ in range(_DRAWS))) / (1 + _DRAWS)


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 on, ties sharing their mean rank."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def _newcombe(first: Sequence[float], second: Sequence[float]) -> Limits:
    """The difference of two shares of the same images, which are right (1) or wrong (0)."""
    from rp_attacks.intervals import wilson_interval

    n = len(first)
    a = sum(one == other == 1 for one, other in zip(first, second, strict=True))
    b, c = int(sum(first)) - a, int(sum(second)) - a
    d = n - a - b - c
    p, q = wilson_interval(a + b, n), wilson_interval(a + c, n)
    sizes = (a + b) * (c + d) * (a + c) * (b + d)
    covariance = float(a * d - b * c)
    if covariance > 0:  # his correction for continuity
        covariance = max(0.0, covariance - n / 2)
    phi = covariance / math.sqrt(sizes) if sizes else 0.0

    def width(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    difference = p.estimate - q.estimate
    down = width(p.estimate - p.low, q.high - q.estimate)
    up = width(p.high - p.estimate, q.estimate - q.low)
    return {"estimate": difference, "low": difference - down, "high": difference + up}
