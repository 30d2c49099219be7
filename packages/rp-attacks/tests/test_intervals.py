import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_attacks.intervals import (
    accuracy_interval,
    bootstrap_interval,
    clopper_pearson_lower,
    paired_comparison,
    sign_flips,
    sign_test,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "low", "high"), [(207, 0.363, 0.447), (259, 0.463, 0.549), (318, 0.578, 0.662)])
def test_wilson_limits_are_those_of_the_table(successes: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, 512)
    assert (round(interval.low, 3), round(interval.high, 3)) == (low, high)
    assert interval.estimate == successes / 512


def test_wilson_stays_within_0_and_1_and_covers_as_promised() -> None:
    assert wilson_interval(0, 20).low == 0
    assert wilson_interval(0, 20).high > 0.1
    assert wilson_interval(20, 20).high == 1
    draws = np.random.default_rng(0).binomial(100, 0.9, 2000)
    inside = [wilson_interval(int(k), 100) for k in draws]
    assert 0.92 < np.mean([i.low <= 0.9 <= i.high for i in inside]) < 0.97


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).uniform(size=400)
    interval = bootstrap_interval(values, seed=1)
    half = 1.96 * values.std() / 20
    assert abs(interval.high - values.mean() - half) < 0.1 * half
    assert abs(values.mean() - interval.low - half) < 0.1 * half
    assert bootstrap_interval(values, seed=1) == interval


def test_an_accuracy_has_width_also_where_every_pass_agrees() -> None:
    assert accuracy_interval(np.ones((20, 5))) == wilson_interval(20, 20)
    assert accuracy_interval(np.zeros((20, 5))) == wilson_interval(0, 20)
    assert accuracy_interval([[True], [False], [True], [True]]) == wilson_interval(3, 4)
    right = np.random.default_rng(0).uniform(size=(50, 10)) < 0.5
    assert accuracy_interval(right) == bootstrap_interval(right.mean(1), seed=0)


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    easy = np.random.default_rng(0).uniform(size=300) < 0.5
    better = easy.copy()
    better[np.flatnonzero(~easy)[:12]] = True
    comparison = paired_comparison(better, easy)
    assert comparison.difference.low > 0
    assert (comparison.only_first, comparison.only_second) == (12, 0)
    assert comparison.p_value == pytest.approx(2 * 0.5**12)
    assert wilson_interval(int(better.sum()), 300).low < easy.mean()


def test_equal_defences_are_not_told_apart() -> None:
    assert "are not told apart" in str(paired_comparison([1, 0, 1], [1, 0, 1]))
    assert paired_comparison([1, 0], [1, 0]).p_value == 1


def test_an_estimate_lies_between_its_limits_also_after_rounding() -> None:
    for n in range(1, 200):
        for successes in (0, 1, n // 2, n - 1, n):
            low, high = wilson_interval(successes, n)[1:]
            assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(0, 13).low == 0


def test_an_image_right_in_half_of_its_passes_is_not_right() -> None:
    comparison = paired_comparison([1.0, 0.5, 0.5, 0.6], [0.5, 1.0, 0.5, 0.5])
    assert (comparison.only_first, comparison.only_second) == (2, 1)


def test_flipped_signs_are_scipys_permutation_test() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    gaps = np.array([0.5, 0.0, 0.25, -0.25, 0.0, 0.5, 0.75])
    expected = scipy_stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=10_000)
    assert sign_flips(gaps) == pytest.approx(expected.pvalue)
    assert sign_flips(0 * gaps) == 1.0
    many = np.subtract(*np.random.default_rng(1).random((2, 60)))
    drawn = scipy_stats.permutation_test((many,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1)
    assert sign_flips(many) == pytest.approx(drawn.pvalue, abs=0.02)  # five standard errors of two sets of draws


def test_the_test_of_shares_is_one_of_the_difference_shown() -> None:
    """Every image is right once more often, none crosses the half: McNemar's counts would see nothing."""
    first, second = np.full(60, 0.4), np.full(60, 0.3)
    found = paired_comparison(first, second)
    assert (found.only_first, found.only_second) == (0, 0)
    assert found.difference.low > 0
    assert found.p_value < 1e-3
    one = [True, False, True, True, True, False]
    assert paired_comparison(one, [False] * 6).p_value == pytest.approx(sign_flips(np.asarray(one, dtype=float)))


def test_bad_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 1, got 0 of 0"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="successes must be in"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="level must be in"):
        wilson_interval(1, 4, level=95)
    with pytest.raises(ValueError, match="one number for each of the same images"):
        paired_comparison([1, 0], [1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.data())
def test_the_bound_is_the_beta_quantile(n, data) -> None:
    successes = data.draw(st.integers(1, n))
    alpha = data.draw(st.sampled_from([0.001, 0.05, 0.5]))
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = float(scipy_stats.beta.ppf(alpha, successes, n - successes + 1))
    assert clopper_pearson_lower(successes, n, alpha) == pytest.approx(expected, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("n", "most"), [(100, 1.50), (1_000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_the_largest_radius_of_so_many_draws(n, most) -> None:
    lower = clopper_pearson_lower(n, n, 0.001)
    assert lower == pytest.approx(0.001 ** (1 / n), rel=1e-10)
    assert NormalDist().inv_cdf(lower) == pytest.approx(most, abs=0.005)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (4, 0), (7, 3), (3, 7), (40, 61), (5, 5)])
def test_the_sign_test_counts_all_ways_to_toss_a_coin(first: int, second: int) -> None:
    n = first + second
    ways = sum(math.comb(n, k) for k in range(min(first, second) + 1))
    assert sign_test(first, second) == pytest.approx(min(1.0, 2 * ways / 2**n), rel=1e-12)
    assert 0 < sign_test(60_000, 59_000) < 0.005  # also of counts that no table holds
