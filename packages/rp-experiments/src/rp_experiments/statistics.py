"""Means over seeds and paired differences, each with an interval that says what it is over."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from rp_attacks.intervals import Comparison, Interval, paired_comparison, wilson_interval

Right = npt.NDArray[np.bool_]

# two-sided 95 % quantiles of Student's distribution for 1, 2, ... degrees of freedom
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


class Outcome(NamedTuple):
    """Which images one classifier gets right.

    Attributes:
        point: of the grid.
        method: of `train_dra.py`.
        seed: of the run.
        clean: (n,), on each image as it is.
        autoattack: (n,), on each image under attack.
    """

    point: str
    method: str
    seed: int
    clean: Right
    autoattack: Right


class Difference(NamedTuple):
    """Two series of classifiers on the same images, first minus second, paired by seed.

    Attributes:
        over_seeds: mean difference with Student's interval over seeds; None for one seed.
        over_images: for these seeds: the difference with a bootstrap interval over images, and McNemar's test.
    """

    over_seeds: Interval | None
    over_images: Comparison


def mean_accuracy(right: Sequence[Right]) -> Interval:
    """Mean accuracy over seeds.

    Args:
        right: for each seed (n,).

    Returns:
        With two seeds or more Student's 95 % interval over seeds; with one Wilson's over images.
    """
    if len(right) == 1:
        return wilson_interval(int(right[0].sum()), len(right[0]))
    return student_interval([float(seed.mean()) for seed in right])


def difference(first: Sequence[Right], second: Sequence[Right]) -> Difference:
    """The difference of two series of classifiers.

    Args:
        first: for each seed (n,).
        second: for the same seeds, on the same images.
    """
    paired = [float(a.mean()) - float(b.mean()) for a, b in zip(first, second, strict=True)]
    over_images = paired_comparison(np.mean(first, axis=0), np.mean(second, axis=0))
    return Difference(student_interval(paired) if len(paired) > 1 else None, over_images)


def student_interval(values: Sequence[float]) -> Interval:
    """Mean and Student's 95 % interval of two values or more."""
    mean, count = statistics.fmean(values), len(values)
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96 + 2.5 / (count - 1)
    half = quantile * statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)
