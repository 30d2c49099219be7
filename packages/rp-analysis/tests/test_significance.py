"""Permutation nulls and half-sample intervals of the similarity scores."""

import pytest
import torch
from rp_analysis import cka, cknna, half_sample_interval, mutual_knn, permutation_test
from torch import Tensor

SCORES = {
    "cknna": lambda a, b: cknna(a, b, 4),
    "mutual_knn": lambda a, b: mutual_knn(a, b, 4),
    "cka": lambda a, b: cka(a, b, unbiased=True, normalize=True),
}


def features(n: int, *, related: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    b = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    return a, b + 2 * a @ torch.randn(5, 7, generator=generator, dtype=torch.float64) if related else b


@pytest.mark.parametrize("metric", SCORES)
def test_the_null_holds_the_scores_of_shuffled_samples(metric: str) -> None:
    a, b = features(50, related=True)
    test = permutation_test(a, b, metric, seed=3, k=4, permutations=5)
    generator = torch.Generator().manual_seed(3)
    expected = [SCORES[metric](a, b[torch.randperm(50, generator=generator)]) for _ in range(5)]
    assert test.value == pytest.approx(SCORES[metric](a, b), rel=1e-9)
    assert test.null.tolist() == pytest.approx(expected, rel=1e-9)
    assert test.null_mean == pytest.approx(sum(expected) / 5)


@pytest.mark.parametrize("metric", SCORES)
def test_related_features_are_told_from_unrelated_ones(metric: str) -> None:
    assert permutation_test(*features(80, related=True), metric, seed=0, k=4, permutations=99).p_value == 0.01
    assert permutation_test(*features(80, related=False), metric, seed=0, k=4, permutations=99).p_value > 0.05


@pytest.mark.parametrize("metric", SCORES)
def test_half_samples_are_scored_as_if_searched_anew(metric: str) -> None:
    a, b = features(60, related=True)
    interval = half_sample_interval(a, b, metric, seed=1, k=4, resamples=6)
    generator = torch.Generator().manual_seed(1)
    kept = [torch.randperm(60, generator=generator)[:30].sort().values for _ in range(6)]
    draws = torch.tensor([SCORES[metric](a[s], b[s]) for s in kept], dtype=torch.float64)
    assert interval.standard_error == pytest.approx(float(draws.std()), rel=1e-7)
    assert interval.value == pytest.approx(SCORES[metric](a, b), rel=1e-9)
    assert interval.low < interval.value < interval.high


def test_half_samples_with_few_survivors_are_searched_again() -> None:
    a, b = features(40, related=True)
    a[:20] = a[0]  # twins crowd the lists of twenty rows
    interval = half_sample_interval(a, b, "mutual_knn", seed=0, k=3, resamples=4)
    assert interval.low <= interval.value <= interval.high


def test_the_standard_error_matches_fresh_samples() -> None:
    scores = torch.tensor([mutual_knn(*features(200, related=True, seed=0), 4)])
    generator = torch.Generator().manual_seed(5)
    a, b = features(4000, related=True)  # one population
    draws = [torch.randperm(4000, generator=generator)[:200] for _ in range(60)]
    scores = torch.tensor([mutual_knn(a[d], b[d], 4) for d in draws])
    found = half_sample_interval(a[:200], b[:200], "mutual_knn", seed=0, k=4, resamples=100).standard_error
    assert found == pytest.approx(float(scores.std()), rel=0.35)  # both are estimates: 60 and 100 draws


def test_bad_options_are_refused() -> None:
    a, b = features(20, related=True)
    with pytest.raises(ValueError, match="metric must be"):
        permutation_test(a, b, "cosine", seed=0)
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        permutation_test(a, b, seed=0, permutations=0)
    with pytest.raises(ValueError, match="k must be from 2 to n - 1 = 9 for n = 10"):
        half_sample_interval(a, b, seed=0, k=10)
    with pytest.raises(ValueError, match="k must be from 1 to n - 1 = 19"):
        permutation_test(a, b, "mutual_knn", seed=0, k=20)
    with pytest.raises(ValueError, match="all rows of a are equal"):
        permutation_test(torch.ones(20, 3), b, seed=0)
    with pytest.raises(ValueError, match="resamples must be at least 2"):
        half_sample_interval(a, b, seed=0, level=1.0)
