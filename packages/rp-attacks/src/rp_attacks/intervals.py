"""Confidence intervals of an accuracy, and tests of two defences on the same images."""

import itertools
import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_FLIPS = 20_000


class Interval(NamedTuple):
    """An estimate between two limits."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.estimate:.2f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share.

    Source: Wilson 1927, JASA 22, 209-212.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be in 0..n with n >= 1, got {successes} of {n}")
    z = _quantile(level)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))  # despite rounding


def clopper_pearson_lower(successes: int, n: int, alpha: float) -> float:
    """The one-sided lower bound of a share at level 1 - alpha, exact.

    It is the p at which so many successes or more have probability alpha. Source: Clopper & Pearson 1934, Biometrika
    26, 404-413.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be in 0..n with n >= 1, got {successes} of {n}")
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / n
    for _ in range(60):  # to the last bit
        middle = (low + high) / 2
        if _log_tail(successes, n, middle) < math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def sign_test(first: int, second: int) -> float:
    """The two-sided p-value of an exact binomial test that two counts have the same expectation."""
    return min(1.0, 2 * math.exp(_log_tail(max(first, second), first + second, 0.5)))


def _log_tail(successes: int, n: int, p: float) -> float:
    """The logarithm of the probability of so many successes or more among n."""
    if p <= 0 or p >= 1:
        return 0.0 if p >= 1 or successes == 0 else -math.inf
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])
    k = np.arange(successes, n + 1)
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    return float(np.logaddexp.reduce(log_choose + k * math.log(p) + (n - k) * math.log1p(-p)))


def bootstrap_interval(values: npt.ArrayLike, level: float = 0.95, *, seed: int, resamples: int = 2000) -> Interval:
    """Percentile bootstrap interval of a mean over images.

    `values` holds one number per image, e.g. the share of right passes. Source: Efron 1979, Ann. Statist. 7, 1-26.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) == 0:
        raise ValueError(f"values must hold one number per image, got shape {sample.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    generator = np.random.default_rng(seed)
    means = np.array([sample[generator.integers(0, len(sample), len(sample))].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def accuracy_interval(right: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Expected accuracy of one query: Wilson's interval for one pass, a bootstrap over images for several.

    `right` (n, K) says whether each of K passes was right on each of n images.
    """
    passes = np.asarray(right, dtype=bool)
    mean = passes.mean(axis=1)
    if passes.shape[1] == 1 or mean.min() == mean.max() in (0, 1):  # where all agree a bootstrap has no width
        return wilson_interval(int(mean.sum()), len(mean), level)
    return bootstrap_interval(mean, level, seed=0)


class Comparison(NamedTuple):
    """Two defences on the same images, first minus second."""

    difference: Interval
    """Of the mean accuracies, with a bootstrap interval over images."""
    only_first: int
    """Images on which only the first is right in most passes."""
    only_second: int
    p_value: float
    """Two-sided: McNemar's exact test where images are right or wrong, `sign_flips` where they hold shares."""

    def __str__(self) -> str:
        verdict = "differ" if self.difference.low > 0 or self.difference.high < 0 else "are not told apart"
        return (
            f"the two {verdict}: {100 * self.difference.estimate:+.2f} points "
            f"[{100 * self.difference.low:+.1f}, {100 * self.difference.high:+.1f}]; "
            f"{self.only_first} images only the first gets right, {self.only_second} only the second "
            f"(p = {self.p_value:.3g})"
        )


def paired_comparison(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95, *, seed: int = 0) -> Comparison:
    """Compare two defences image by image, which is far sharper than comparing their separate intervals.

    Both hold (n,) the share of right passes of each image, the same images in the same order.

    Source: McNemar 1947, Psychometrika 12, 153-157; Fisher 1935, The Design of Experiments.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"both must hold one number for each of the same images, got shapes {a.shape}, {b.shape}")
    right_a, right_b = a > 0.5, b > 0.5
    only_first, only_second = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    difference = bootstrap_interval(a - b, level, seed=seed)
    decided = bool(np.isin(np.concatenate([a, b]), (0, 1)).all())
    p_value = sign_test(only_first, only_second) if decided else sign_flips(a - b)
    return Comparison(difference, only_first, only_second, p_value)


def sign_flips(differences: npt.ArrayLike) -> float:
    """The two-sided p-value of a mean difference when each image's difference could as well have the other sign.

    Source: Fisher 1935, The Design of Experiments; all flips up to 12 differences, beyond 20,000 random ones (as
    scipy's permutation test, in a tenth of its time: every pair of systems asks for one).
    """
    gaps = np.asarray(differences, dtype=np.float64)
    gaps = gaps[gaps != 0]
    reached = abs(gaps.sum()) - 1e-9
    if len(gaps) <= 12:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(gaps))))
        return float((abs(signs @ gaps) >= reached).mean())
    signs = np.random.default_rng(0).choice((-1, 1), size=(_FLIPS, len(gaps)))
    return float((1 + (abs(signs @ gaps) >= reached).sum()) / (1 + _FLIPS))


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
