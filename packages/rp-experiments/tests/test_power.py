"""Effects read back from evidence, the correction for many claims, and how many images or seeds decide one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rp_experiments.papers.claims import FAILED, HELD, OPEN, between, points
from rp_experiments.papers.effects import chance, effects
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.power import fewest, needed, printed_size, seeds_needed, share_needed
from rp_experiments.papers.verdicts import judged
from rp_experiments.statistics import holm

share = st.integers(-1000, 1000).map(lambda tenths: tenths / 1000)


@given(share, share, share, st.sampled_from([None, 0.5, 0.012, 5e-05]))
def test_what_a_rule_writes_is_read_back(a, b, c, p):
    low, estimate, high = sorted((a, b, c))
    limits = {"estimate": estimate, "low": low, "high": high} | ({} if p is None else {"p": p})
    (found,) = effects(f"one minus other, worst case in Linf: {points(limits)}")
    assert (found.what, found.points, found.p) == ("one minus other, worst case in Linf", True, p)
    assert np.allclose(found[1:4], [100 * estimate, 100 * low, 100 * high], atol=0.051)  # one digit is written
    (found,) = effects(f"share: {between(limits, 100)}% (rule: at least 75%)")
    assert (found.points, found.rule, found.limit) == (False, "at least", 75)
    assert np.allclose(found[1:4], [100 * estimate, 100 * low, 100 * high], rtol=0.006, atol=1e-9)  # three digits


def test_several_parts_are_read_in_their_order():
    text = "a minus b: +1.0 points [-1.0, +3.0], p = 0.3; c minus d: -2.5 points [-3.0, -2.0] (rule: within 5 points)"
    first, second = effects(text)
    assert (first.what, first.p, second.what, second.rule, second.limit) == ("a minus b", 0.3, "c minus d", "within", 5)
    assert effects("attention: 10.8% against 9.23% (point estimates, no interval; rule: 20% apart)") == []


def test_the_chance_of_a_claim_is_that_of_the_part_that_decides():
    held = "a minus b: +5.0 points [+1.0, +9.0], p = 0.02; c minus d: +5.0 points [+3.0, +7.0], p = 0.001"
    assert chance(HELD, held) == 0.02
    assert chance(FAILED, held) == pytest.approx(0.002)
    assert chance(OPEN, held) == 1.0
    assert chance(HELD, "no number here") is None
    assert chance(HELD, "order: AMV +1.00 (p = 0.0004, 7 points), loss +1.00 (p = 0.003, 7 points)") == 0.003
    at_the_edge = chance(HELD, "share: 0.85 [0.75, 0.95] (rule: at least 0.75)")
    assert at_the_edge == pytest.approx(0.05, rel=1e-6)  # an interval that ends at the limit


def test_holm_by_hand_and_never_below_the_chance_itself():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_so_many_images_decide_with_the_promised_chance():
    """Differences of images drawn at random: with the number asked for, four of five runs see the difference."""
    (effect,) = effects("a minus b: +0.0 points [-9.8, +9.8]")  # standard error 5 points on 100 images
    images = round(100 * share_needed(effect, 6.0, tests=1))
    draws = np.random.default_rng(0).normal(6.0, 50.0, size=(4000, images)).mean(axis=1)
    seen = (np.abs(draws) > 1.96 * 50.0 / math.sqrt(images)).mean()
    assert seen == pytest.approx(0.8, abs=0.02)  # three standard errors of 4,000 draws


def test_so_many_seeds_decide_with_the_promised_chance():
    from scipy.stats import t

    gaps = [1.0, 2.0, 3.0, 4.0, 5.0]
    seeds = seeds_needed(gaps, 2.0, tests=2)
    draws = np.random.default_rng(0).normal(2.0, np.std(gaps, ddof=1), size=(4000, seeds))
    reached = np.abs(draws.mean(axis=1)) / draws.std(axis=1, ddof=1) * math.sqrt(seeds)
    assert (reached > t.ppf(1 - 0.025 / 2, seeds - 1)).mean() >= 0.8 - 0.02
    assert seeds_needed(gaps, 4.0, tests=2) < seeds < seeds_needed(gaps, 2.0, tests=20)


def test_sizes_are_those_that_the_papers_print():
    one = ["mae-pure-table-1"]
    assert printed_size("", "RMAE-Pure minus MAE-Pure, worst case in Linf", one) == pytest.approx(45.15 - 40.53)
    assert printed_size("", "RMAE-Pure minus MAE-Pure, worst case in L2", one) == pytest.approx(60.72 - 53.50)
    assert printed_size("", "RMAE-Pure minus MAE-Pure, clean images", one) == pytest.approx(90.09 - 88.57)
    assert printed_size("", "RMAE-Pure minus something else, worst case in Linf", one) is None
    two = ["dra-table-2"]
    assert printed_size("", "DM-AT+DRA minus DM-AT, AutoAttack", two) == pytest.approx(64.12 - 63.35)
    assert printed_size("", "DM-AT+DRA minus DM-AT+IKL, clean", two) == pytest.approx(93.14 - 92.16)  # the same row's
    assert printed_size("", "DM-AT minus AT, clean", two) is None  # other networks
    before = ["mae-pure-table-5"]
    assert printed_size("in L2", "RMAE-Pure, other minus DiffPure, worst case", before) == pytest.approx(60.08 - 54.74)


def test_what_a_claim_needs_counts_images_of_its_own_product_and_no_fewer_than_a_test_can_decide():
    (effect,) = effects("RMAE-Pure minus MAE-Pure, worst case in L2: +4.6 points [-4.6, +13.8], p = 0.4")
    products = {
        "comparison": {"setting": {"images": 100}, "seconds": 1000.0},
        "norms": {"setting": {"images": 60}, "seconds": 600.0},
    }
    found = needed("", effect, ["mae-pure-table-1"], {"products": products}, 1)
    assert found is not None
    assert (found.images, found.printed, found.size) == (60, True, pytest.approx(7.22))
    assert found.needed == math.ceil(60 * share_needed(effect, found.size, 1)) > fewest(found.size, 1)
    assert found.seconds == pytest.approx(10.0 * found.needed)
    (sure,) = effects("RMAE-Pure minus MAE-Pure, worst case in L2: +0.0 points [+0.0, +0.0]")
    least = needed("", sure, ["mae-pure-table-1"], {"products": products}, 1)
    assert least is not None
    assert least.needed == fewest(7.22, 1)
    assert needed("", effect, [], {"products": {}}, 1) is None


def test_claims_that_need_other_data_are_told_apart_and_the_correction_does_not_count_them():
    item = ITEMS["dra/table-1"]
    text = "DM-AT+DRA minus DM-AT, clean: +5.0 points [+1.0, +9.0], p = 0.02"
    claims = [
        {"text": claim.text, "verdict": OPEN if claim.needs else HELD, "evidence": "" if claim.needs else text}
        for claim in item.claims
    ]
    record = {"claims": claims, "products": {"run": {"setting": {"data": "digits", "images": 200}, "seconds": 1.0}}}
    rows = judged([item], {"digits": {item.key: record}})
    assert {row.claim.needs for row in rows if row.apart} == {("cifar10",), ("cifar100",), ("imagenet",)}
    found = [row.found["digits"] for row in rows if not row.apart]
    assert [one.corrected for one in found] == [pytest.approx(0.06)] * 3  # three claims with 0.02 each
    assert [one.words for one in found] == ["held (not after correction, p = 0.06)"] * 3
