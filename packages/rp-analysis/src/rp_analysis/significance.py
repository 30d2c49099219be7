"""Whether a similarity score is more than chance, and how far it would move with other samples."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .arrays import Matrix, as_pair
from .neighbours import Neighbours, nearest_neighbours
from .similarity import check_k, checked_features, cka, cknna_of_neighbours, mutual_knn_of_neighbours

Metric = Literal["cknna", "mutual_knn", "cka"]
"""Scores with a null and an interval; `cka` is the unbiased one."""


class PermutationTest(NamedTuple):
    """A score beside the scores of the same representations with their samples shuffled apart."""

    value: float
    p_value: float  # share of shuffles that reach the score, the score itself counted
    null_mean: float
    null_std: float
    null: Tensor  # (permutations,) float64


class ScoreInterval(NamedTuple):
    """A score with a confidence interval over the choice of samples."""

    value: float
    low: float
    high: float
    standard_error: float


def permutation_test(
    a: Matrix,
    b: Matrix,
    metric: Metric = "cknna",
    *,
    seed: int,
    k: int = 10,
    permutations: int = 200,
    normalize: bool = True,
) -> PermutationTest:
    """Computes a similarity score and its distribution when the samples of `b` are shuffled.

    Scores grow with width and depth even for unrelated networks, so a score means little without its null. The
    neighbours are searched once: shuffling only renames them.

    Args:
        a: (n, d1) features, n >= 4.
        k: neighbours per sample (not used by `cka`).
        permutations: number of shuffles; the smallest p-value is 1 / (permutations + 1).

    Returns:
        The test; a small p-value says that the representations share structure.
    """
    x, y = as_pair(checked_features(a, "a"), checked_features(b, "b"), ("a", "b"))
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    score = _shuffled_score(x, y, metric, k, normalize)
    generator = torch.Generator().manual_seed(seed)
    value = score(torch.arange(len(x), device=x.device))
    draws = [score(torch.randperm(len(x), generator=generator).to(x.device)) for _ in range(permutations)]
    null = torch.tensor(draws, dtype=torch.float64)
    p_value = (1 + int((null >= value).sum())) / (permutations + 1)
    return PermutationTest(value, p_value, float(null.mean()), float(null.std(correction=0)), null)


def half_sample_interval(
    a: Matrix,
    b: Matrix,
    metric: Metric = "cknna",
    *,
    seed: int,
    k: int = 10,
    resamples: int = 100,
    level: float = 0.95,
    normalize: bool = True,
) -> ScoreInterval:
    """Computes a similarity score and an interval from random half-samples without replacement.

    The usual bootstrap repeats samples, and a repeated sample is its own nearest neighbour. Half-samples repeat
    none, and the spread of the score over them estimates its spread over full samples (half-sampling, a delete-d
    jackknife). The deviations from their mean are laid around the score of all samples.

    Args:
        a: (n, d1) features, n >= 8.
        k: neighbours per sample (not used by `cka`).
        resamples: number of half-samples, at least 2.

    Source: Politis, Romano & Wolf 1999, Subsampling (Springer).
    """
    x, y = as_pair(checked_features(a, "a"), checked_features(b, "b"), ("a", "b"), rows=8)
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(f"resamples must be at least 2 and level in (0, 1), got {resamples} and {level}")
    n, half = len(x), len(x) // 2
    score = _subset_score(x, y, metric, k, normalize)
    generator = torch.Generator().manual_seed(seed)
    subsets = [torch.randperm(n, generator=generator)[:half].sort().values for _ in range(resamples)]
    draws = torch.tensor([score(subset.to(x.device)) for subset in subsets], dtype=torch.float64)
    deviation = (draws - draws.mean()) * (half / (n - half)) ** 0.5
    low, high = (float(deviation.quantile(q)) for q in ((1 - level) / 2, (1 + level) / 2))
    value = score(torch.arange(n, device=x.device))
    return ScoreInterval(value, value + low, value + high, float(deviation.std()))


def rank_correlation(x: Sequence[float] | Tensor, y: Sequence[float] | Tensor) -> float:
    """Computes Spearman's correlation of two sequences, ties sharing their mean rank; NaN if one is constant."""
    from scipy.stats import spearmanr

    u, v = (torch.as_tensor(values, dtype=torch.float64) for values in (x, y))
    if len(u) != len(v) or len(u) < 2:
        raise ValueError(f"two sequences of equal length >= 2 are needed, got {len(u)} and {len(v)}")
    if bool((u == u[0]).all() or (v == v[0]).all()):
        return math.nan
    return float(spearmanr(u, v).statistic)


def _shuffled_score(x: Tensor, y: Tensor, metric: Metric, k: int, normalize: bool) -> Callable[[Tensor], float]:
    """A function of the order in which the samples of y are taken."""
    if metric == "cka":
        return lambda order: cka(x, y[order], unbiased=True, normalize=normalize)
    compare = _comparison(metric)
    check_k(k, len(x), least=2 if metric == "cknna" else 1)
    near_x, near_y = (nearest_neighbours(z, k, normalize=normalize) for z in (x, y))
    return lambda order: compare(near_x, _renamed(near_y, order))


def _subset_score(x: Tensor, y: Tensor, metric: Metric, k: int, normalize: bool) -> Callable[[Tensor], float]:
    """A function of which samples are kept."""
    if metric == "cka":
        return lambda kept: cka(x[kept], y[kept], unbiased=True, normalize=normalize)
    compare = _comparison(metric)
    check_k(k, len(x) // 2, least=2 if metric == "cknna" else 1)  # each half-sample must have k neighbours
    # Half of a row's neighbours survive on average; of six times k, fewer than k almost never do.
    longer = min(6 * k, len(x) - 1)
    near_x, near_y = (nearest_neighbours(z, longer, normalize=normalize) for z in (x, y))

    def searched(z: Tensor) -> Neighbours:
        return nearest_neighbours(z, k, normalize=normalize)

    def score(kept: Tensor) -> float:
        return compare(*(_surviving(near, kept, k) or searched(z[kept]) for z, near in ((x, near_x), (y, near_y))))

    return score


def _comparison(metric: Metric) -> Callable[[Neighbours, Neighbours], float]:
    if metric == "cknna":
        return cknna_of_neighbours
    if metric == "mutual_knn":
        return mutual_knn_of_neighbours
    raise ValueError(f"metric must be 'cknna', 'mutual_knn' or 'cka', got {metric!r}")


def _renamed(near: Neighbours, order: Tensor) -> Neighbours:
    """The neighbours after sample order[i] became sample i."""
    return Neighbours(order.argsort()[near.index[order]], near.similarity[order])


def _surviving(near: Neighbours, kept: Tensor, k: int) -> Neighbours | None:
    """The k nearest among the kept samples, renumbered; None if some row has fewer than k in its list."""
    name = torch.full((len(near.index),), -1, dtype=torch.int64, device=kept.device)
    name[kept] = torch.arange(len(kept), device=kept.device)
    index = name[near.index[kept]]
    if int((index >= 0).sum(dim=1).min()) < k:
        return None
    place = (index < 0).to(torch.int8).sort(dim=1, stable=True).indices[:, :k]  # survivors first, in their order
    return Neighbours(index.gather(1, place), near.similarity[kept].gather(1, place))
