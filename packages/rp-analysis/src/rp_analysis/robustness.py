"""Accuracy over the attack budget, and representation similarity beside robust accuracy over many models."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Matrix
from .modes import eval_mode
from .saliency import Attack, Batches, Classifier
from .similarity import cknna_matrix


class RobustnessCurve(NamedTuple):
    """Accuracy at each budget with a 95 % Wilson interval over the images."""

    eps: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    images: int


class SimilarityPoint(NamedTuple):
    """One model of a scatter plot."""

    name: str
    robust_accuracy: float
    score: float


def robustness_curve(
    model: Classifier,
    attack_at: Callable[[float], Attack],
    batches: Batches,
    eps: Sequence[float],
    *,
    cumulative: bool = True,
) -> RobustnessCurve:
    """Computes a classifier's accuracy under attacks of growing budget (DRA Fig. 3b).

    Args:
        model: the classifier; evaluated in eval mode, its mode is restored.
        attack_at: makes the attack for a budget; it is not called for budget 0, the clean accuracy.
        batches: images and labels; read once.
        eps: increasing budgets.
        cumulative: count an image as broken from the first budget that breaks it. A perturbation of a small ball
            lies in every larger one, so a curve that rises again shows a failed attack, not robustness.

    Raises:
        ValueError: budgets that do not increase, or no images.
    """
    if not eps or eps[0] < 0 or any(b <= a for a, b in pairwise(eps)):
        raise ValueError(f"eps must be increasing budgets from 0 on, got {tuple(eps)}")
    right = torch.zeros(len(eps), dtype=torch.int64)
    images = 0
    with eval_mode(model):
        for x, y in batches:
            alive = torch.ones_like(y, dtype=torch.bool)
            for i, budget in enumerate(eps):
                x_adv = x if budget == 0 else attack_at(budget)(model, x, y)
                with torch.no_grad():
                    correct = model(x_adv).argmax(dim=1) == y
                alive = alive & correct if cumulative else correct
                right[i] += int(alive.sum())
            images += len(x)
    if images == 0:
        raise ValueError("there are no images to attack")
    accuracy = tuple((right / images).tolist())
    low, high = zip(*(wilson_interval(int(r), images) for r in right), strict=True)
    return RobustnessCurve(tuple(eps), accuracy, low, high, images)


def wilson_interval(successes: int, trials: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion; z = 1.96 covers 95 %."""
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))  # rounding must not exclude p


def similarity_scatter(
    reference: Matrix, models: Mapping[str, Matrix], robust_accuracy: Mapping[str, float], *, k: int = 10
) -> list[SimilarityPoint]:
    """Computes each model's CKNNA with a reference beside its robust accuracy (DRA Fig. 1, 9).

    Args:
        reference: (n, d) features to compare with, e.g. of a diffusion model.
        models: features (n, d) of the same samples by model name.
        robust_accuracy: in [0, 1] by model name, e.g. RobustBench's.
        k: neighbours per sample.

    Raises:
        ValueError: a model without a robust accuracy.
    """
    missing = sorted(set(models) - set(robust_accuracy))
    if missing:
        raise ValueError(f"robust_accuracy lacks {', '.join(missing)}")
    scores = cknna_matrix(list(models.values()), [reference], k)[:, 0].tolist()
    pairs = zip(models, scores, strict=True)
    return [SimilarityPoint(name, robust_accuracy[name], score) for name, score in pairs]


def rank_correlation(x: Sequence[float] | Tensor, y: Sequence[float] | Tensor) -> float:
    """Computes Spearman's correlation of two sequences, ties sharing their mean rank; NaN if one is constant."""
    u, v = (_ranks(torch.as_tensor(values, dtype=torch.float64)) for values in (x, y))
    if len(u) != len(v) or len(u) < 2:
        raise ValueError(f"two sequences of equal length >= 2 are needed, got {len(u)} and {len(v)}")
    u, v = u - u.mean(), v - v.mean()
    spread = float(u.norm() * v.norm())
    return float(u @ v) / spread if spread else math.nan


def _ranks(values: Tensor) -> Tensor:
    below = (values.unsqueeze(0) < values.unsqueeze(1)).sum(dim=1)
    equal = (values.unsqueeze(0) == values.unsqueeze(1)).sum(dim=1)
    return below + (equal + 1) / 2
