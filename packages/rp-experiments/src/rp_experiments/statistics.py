"""Means over seeds, differences and rank correlations, each with an interval or a test.

The intervals of one accuracy alone are in `rp_attacks.intervals`. Importing this does not import torch.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rp_attacks.intervals import Comparison, Interval, paired_comparison, wilson_interval

from rp_experiments.results import LIMITS, Limits

Right = npt.NDArray[np.bool_]
Z = NormalDist().inv_cdf(0.975)  # of a 95% interval
_ORDERS = math.factorial(8)  # so many orders are tried: all of eight points


class Answers(NamedTuple):
    """Which images one classifier gets right, as they are and under attack: arrays of shape (n,)."""

    point: str  # of the grid
    method: str  # of `train_dra.py`
    seed: int
    clean: Right
    autoattack: Right


class Difference(NamedTuple):
    """Two series of classifiers on the same images, first minus second, paired by seed."""

    over_seeds: Interval | None  # Student's; None for one seed
    over_images: Comparison  # for these seeds: a bootstrap over images, and a test
    p_value: float  # Student's over seeds; of one seed that over images


def mean_accuracy(right: Sequence[Right]) -> Interval:
    """Mean accuracy over seeds, with Student's 95% interval; for one seed Wilson's over images."""
    if len(right) == 1:
        return wilson_interval(int(right[0].sum()), len(right[0]))
    return student_interval([float(seed.mean()) for seed in right])


def difference(first: Sequence[Right], second: Sequence[Right]) -> Difference:
    """The difference of two series of classifiers with the same seeds, on the same images."""
    gaps = [float(a.mean()) - float(b.mean()) for a, b in zip(first, second, strict=True)]
    over_images = paired_comparison(np.mean(first, axis=0), np.mean(second, axis=0))
    if len(gaps) == 1:
        return Difference(None, over_images, over_images.p_value)
    return Difference(student_interval(gaps), over_images, student_p(gaps))


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and Student's 95% interval of two values or more."""
    from scipy.stats import t

    mean = fmean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def student_p(values: Sequence[float]) -> float:
    """The two-sided p-value of Student's test that the mean of two values or more is zero; 1 if all are zero."""
    from scipy.stats import ttest_1samp

    if stdev(values) == 0:
        return float(fmean(values) == 0)
    return float(ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests that hold for all of them together, in the same order.

    Source: Holm 1979, Scandinavian Journal of Statistics 6, 65-70.
    """
    found, largest = [0.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        found[number] = largest
    return found


def paired(first: Sequence[float], second: Sequence[float]) -> Limits:
    """First minus second on the same images, in the same order, given the share of right passes of each image.

    The interval is Newcombe's for right and wrong, a bootstrap over images for shares of passes. The p-value, see
    `paired_comparison`, guards against both where few images tell the two apart.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10.
    """
    found = paired_comparison(list(first), list(second))
    if {*first, *second} <= {0, 1}:
        return {**_newcombe(np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)), "p": found.p_value}
    return {**found.difference._asdict(), "p": found.p_value}


def all_pairs(rows: Mapping[str, Sequence[float]], suffix: str = "") -> dict[str, Limits]:
    """First minus second for every pair of systems on the same images, both ways round: `rmae_pure>mae_pure`."""
    found: dict[str, Limits] = {}
    for a, b in itertools.combinations(rows, 2):
        there = found[f"{a}>{b}{suffix}"] = paired(rows[a], rows[b])
        back = {"estimate": there["estimate"], "low": there["high"], "high": there["low"]}
        found[f"{b}>{a}{suffix}"] = {key: 0.0 - value for key, value in back.items()} | {"p": there["p"]}  # no -0
    return found


def separate(first: Limits, second: Limits, factor: float = 1.0) -> Limits:
    """First minus `factor` times second of two accuracies, from the limits of both as if their images were others.

    On the same images the interval is wider than it need be, since right answers go together.

    Source: Newcombe 1998, Statistics in Medicine 17, 873-890, method 10; Zou and Donner 2008 for the factor.
    """
    (a, a_low, a_high), (b, b_low, b_high) = ([of[key] for key in LIMITS] for of in (first, second))
    return _limits(
        a - factor * b, math.hypot(a - a_low, factor * (b_high - b)), math.hypot(a_high - a, factor * (b - b_low))
    )


def share_of(percent: float, images: int) -> Limits:
    """Wilson's interval of a share of images that is known in percent."""
    return wilson_interval(round(percent * images / 100), images)._asdict()


def of_means(*terms: tuple[float, float, float]) -> Limits:
    """A sum of means over images, each (weight, mean, standard error), as if their errors were independent.

    For a difference on the same images the interval is wider than it need be, since errors go together.
    """
    half = Z * math.hypot(*(weight * error for weight, _, error in terms))
    return _limits(sum(weight * mean for weight, mean, _ in terms), half, half)


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
    """Spearman's rank correlation with its two-sided permutation p-value, 1 where one is constant, and the points.

    All orders up to eight points, beyond 40,320 random ones.
    """
    from scipy.stats import permutation_test, rankdata

    one, other = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    spread = float(np.linalg.norm(one) * np.linalg.norm(other))
    if not spread:
        return {"estimate": 0.0, "p": 1.0, "points": len(x)}

    def agreement(order: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
        return np.abs(np.moveaxis(order, axis, -1) @ one)

    options = {"permutation_type": "pairings", "n_resamples": _ORDERS, "alternative": "greater", "rng": 0}
    test = permutation_test((other,), agreement, vectorized=True, **options)
    estimate = max(-1.0, min(1.0, float(one @ other) / spread))
    return {"estimate": estimate, "p": float(test.pvalue), "points": len(x)}


def widened(limits: Limits, tries: int) -> Limits:
    """The same interval at a level that holds for `tries` of them together (Bonferroni)."""
    factor = NormalDist().inv_cdf(1 - 0.025 / max(1, tries)) / Z
    estimate, low, high = (limits[key] for key in LIMITS)
    return _limits(estimate, factor * (estimate - low), factor * (high - estimate))


def _newcombe(first: Right, second: Right) -> Limits:
    """The difference of two shares of the same images."""
    n, a = len(first), int((first & second).sum())
    b, c = int(first.sum()) - a, int(second.sum()) - a
    d = n - a - b - c
    (p, p_low, p_high), (q, q_low, q_high) = wilson_interval(a + b, n), wilson_interval(a + c, n)
    sizes = (a + b) * (c + d) * (a + c) * (b + d)
    covariance = float(a * d - b * c)
    if covariance > 0:  # his correction for continuity
        covariance = max(0.0, covariance - n / 2)
    phi = covariance / math.sqrt(sizes) if sizes else 0.0

    def width(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    return _limits(p - q, width(p - p_low, q_high - q), width(p_high - p, q - q_low))


def _limits(estimate: float, below: float, above: float) -> dict[str, float]:
    return {"estimate": estimate, "low": estimate - below, "high": estimate + above}
