"""Differences, means over seeds and rank correlations: against examples in print, scipy, and what is known by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rp_attacks.intervals import wilson_interval
from rp_experiments import statistics
from rp_experiments.papers import claims
from rp_experiments.statistics import difference, holm, mean_accuracy, rank_test, student_interval, student_p
from scipy import stats


def test_few_images_that_differ_are_not_enough():
    right = [1.0] * 96 + [0.0] * 96
    four = statistics.paired([*right, 1.0, 1.0, 1.0, 1.0], [*right, 0.0, 0.0, 0.0, 0.0])
    assert four["p"] == pytest.approx(0.125)  # McNemar's: two of sixteen ways
    assert claims.sign_of(four) == claims.OPEN
    ten = statistics.paired([*right, *[1.0] * 10], [*right, *[0.0] * 10])
    assert claims.sign_of(ten) == claims.HELD
    shares = statistics.paired([*right, 1.0, 0.75, 0.5, 0.25], [*right, 0.0, 0.0, 0.0, 0.0])
    assert shares["p"] == 0.125
    same = statistics.paired([0.0] * 8, [0.0] * 8)
    assert same["low"] < -0.2 < 0.2 < same["high"]  # eight images without a difference show little


def test_intervals_on_the_same_images_agree_with_newcombes_example():
    # 36, 12, 2 and 0 pairs, Newcombe 1998, Statistics in Medicine 17, 2635-2650, Table II: 0.2, 0.0569 to 0.3404
    found = statistics.paired([1] * 48 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2)
    assert [found[key] for key in ("estimate", "low", "high")] == pytest.approx([0.2, 0.0569, 0.3404], abs=1e-4)


def test_separate_intervals_agree_with_newcombes_example():
    # 56/70 against 48/80, Newcombe 1998, Statistics in Medicine 17, 873-890, Table II: 0.2, 0.0524 to 0.3339
    first, second = (wilson_interval(*pair)._asdict() for pair in ((56, 70), (48, 80)))
    found = statistics.separate(first, second)
    assert found == pytest.approx({"estimate": 0.2, "low": 0.0524, "high": 0.3339}, abs=1e-4)  # printed digits
    twice = statistics.separate(first, second, 2.0)
    assert twice["estimate"] == pytest.approx(0.8 - 1.2)
    assert twice["high"] - twice["low"] > found["high"] - found["low"]


def test_differences_of_both_orders_mirror_each_other():
    found = statistics.all_pairs({"a": [1.0, 1.0, 0.5, 0.0], "b": [0.5, 0.0, 0.5, 0.0]}, ", clean")
    assert set(found) == {"a>b, clean", "b>a, clean"}
    there, back = found.values()
    assert (back["estimate"], back["low"], back["high"]) == (-there["estimate"], -there["high"], -there["low"])


def test_errors_of_means_add_like_independent_ones():
    found = statistics.of_means((1.0, 5.0, 0.3), (-2.0, 1.0, 0.2))
    assert found["estimate"] == 3.0
    assert found["high"] - 3.0 == pytest.approx(1.96 * 0.5, rel=1e-4)  # the constant has six digits


def test_a_rank_correlation_over_images_has_an_interval():
    found = statistics.correlation(0.5, 103)
    assert [found["low"], found["high"]] == pytest.approx(
        [math.tanh(math.atanh(0.5) + side * 1.96 * math.sqrt(0.0106)) for side in (-1, 1)], abs=1e-5
    )
    assert statistics.correlation(0.5, 3) is None
    assert statistics.share_of(100.0, 20)["low"] == pytest.approx(0.8389, abs=1e-4)  # Wilson's of 20 of 20


def test_one_seed_has_wilsons_interval_and_several_students():
    right = np.array([True] * 30 + [False] * 10)
    alone = mean_accuracy([right])
    assert alone.estimate == 0.75
    assert alone.low == pytest.approx(0.5981, abs=1e-4)  # by hand from Wilson's formula
    assert alone.high == pytest.approx(0.8581, abs=1e-4)
    three = mean_accuracy([right, right[:20], right[20:]])
    assert three.estimate == pytest.approx((0.75 + 1.0 + 0.5) / 3)
    assert three.high - three.estimate == pytest.approx(4.302653 * np.std([0.75, 1.0, 0.5], ddof=1) / np.sqrt(3))


def test_a_difference_is_paired_by_seed_and_by_image():
    generator = np.random.default_rng(0)
    second = [generator.random(200) < 0.5 for _ in range(3)]
    first = [np.where(np.arange(200) < 10, True, right) for right in second]  # ten images are always right now
    found = difference(first, second)
    gains = [float(a.mean() - b.mean()) for a, b in zip(first, second, strict=True)]
    assert found.over_seeds.estimate == pytest.approx(np.mean(gains))
    assert found.over_images.difference.estimate == pytest.approx(np.mean(gains))
    assert found.over_images.only_second == 0
    assert found.p_value == pytest.approx(stats.ttest_1samp(gains, 0).pvalue)
    assert found.over_images.p_value < 0.01  # McNemar's counts of majorities would hide these ten images
    alone = difference(first[:1], second[:1])
    assert (alone.over_seeds, alone.p_value) == (None, alone.over_images.p_value)


def test_a_p_value_of_equal_differences():
    assert student_p([0.0, 0.0]) == 1
    assert student_p([0.1, 0.1]) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_corrected_p_values_are_those_of_testing_from_the_smallest(p_values):
    """Holm's procedure at a level rejects the hypotheses whose corrected p-value is at most that level."""
    corrected = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for rank, number in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[number] * (len(p_values) - rank) > level:
                break
            rejected.add(number)
        assert {number for number, p in enumerate(corrected) if p <= level} == rejected


def test_students_interval_is_scipys():
    values = [0.2, 0.5, 0.3, 0.4]
    found = student_interval(values)
    expected = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.estimate == pytest.approx(0.35)


@pytest.mark.parametrize("y", [(1, 2, 3, 4, 5), (2, 1, 4, 3, 5), (1, 1, 2, 2, 9)])
def test_a_rank_test_is_scipys_correlation_with_all_orders(y):
    x = (1, 2, 3, 4, 5)

    def correlated(order):
        return abs(stats.spearmanr(x, order).statistic)

    expected = stats.permutation_test((y,), correlated, permutation_type="pairings", alternative="greater")
    found = rank_test(x, y)
    assert found["estimate"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["points"] == 5


def test_constant_numbers_have_no_rank_correlation():
    assert rank_test([1, 2, 3], [7, 7, 7]) == {"estimate": 0.0, "p": 1.0, "points": 3}


def test_importing_it_imports_neither_torch_nor_scipy():
    code = "import sys, rp_experiments.statistics; assert not {'torch', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
