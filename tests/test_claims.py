"""The rules by which the papers' claims are judged, and the numbers that they are given."""

import json
import math
import random
from collections.abc import Mapping
from types import SimpleNamespace

import pytest

from .record_products import RECORDED, products_of
from .running import app

UNDECIDED = {
    "Robust accuracy first improves and then degrades as components are added."
}  # no number here can decide it
# the scale smoke leaves rows and settings out, and has no small radius
ABSENT_AT_SMOKE = ("diffpure", "rmaskdit_pure, second", "rmaskdit_pure, most", "maskdit_pure, most", "small radii")


@pytest.fixture(scope="module")
def apps():
    """The modules of the apps."""
    with pytest.MonkeyPatch.context():
        import rp_experiments.papers.claims as claims
        import rp_experiments.papers.intervals as intervals
        from rp_experiments.artifacts import Made, Shelf
        from rp_experiments.papers.registry import ITEMS as items
        from rp_experiments.papers.scales import SCALES

        yield SimpleNamespace(
            claims=claims, intervals=intervals, scales=SCALES, items=items, made=Made, shelf=Shelf, judge=_judge(claims)
        )


def _judge(claims):
    return lambda rule, numbers: claims.Claim("", rule).judge(numbers).verdict


def interval(estimate, half=0.0, **more):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half, **more}


HELD, FAILED, OPEN = "held", "did not hold", "not testable at this scale"


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (interval(0.1, 0.05), HELD),
        (interval(-0.1, 0.05), FAILED),
        (interval(0.1, 0.2), OPEN),
        (interval(0.1, 0.05, p=0.125), OPEN),
        (interval(-0.1, 0.05, p=0.01), FAILED),
    ],
)
def test_a_difference_counts_if_its_whole_interval_is_on_one_side_and_chance_is_unlikely(
    apps, difference, verdict
) -> None:
    finding = apps.claims.Claim("", apps.claims.larger("gap", "one minus other")).judge({"gap": difference})
    assert finding.verdict == verdict
    assert "one minus other: " in finding.evidence


def test_a_number_reaches_a_value_with_its_whole_interval_or_not_at_all(apps) -> None:
    rule = apps.claims.reaches("a", 0.75, "share", percent=True)
    assert apps.judge(rule, {"a": interval(0.9, 0.1)}) == HELD
    assert apps.judge(rule, {"a": interval(0.8, 0.1)}) == OPEN
    assert apps.judge(rule, {"a": interval(0.6, 0.1)}) == FAILED
    assert apps.judge(rule, {"a": None}) == OPEN
    assert apps.judge(apps.claims.reaches("a", 0.0, "nothing"), {"a": interval(0.0)}) == OPEN


def test_the_lowest_of_many_fails_only_beyond_what_chance_makes_low(apps) -> None:
    rule = apps.claims.lowest("a", 0.5, "shares")
    low = interval(0.4, 0.09)  # alone below 0.5 for sure
    assert apps.judge(rule, {"a": [low]}) == FAILED
    assert apps.judge(rule, {"a": [low, *[interval(0.9, 0.01)] * 9]}) == OPEN
    assert apps.judge(rule, {"a": [interval(0.6, 0.05)] * 3}) == HELD


def test_a_difference_is_small_if_its_whole_interval_is(apps) -> None:
    rule = apps.claims.close("a", 0.05, "gap")
    assert apps.judge(rule, {"a": interval(0.01, 0.03)}) == HELD
    assert apps.judge(rule, {"a": interval(0.04, 0.03)}) == OPEN
    assert apps.judge(rule, {"a": interval(-0.2, 0.03)}) == FAILED


def test_point_estimates_decide_only_far_apart_and_say_what_they_are(apps) -> None:
    rule = apps.claims.exceeds("a", "b", "values")
    assert apps.judge(rule, {"a": 1.3, "b": 1.0}) == HELD
    assert apps.judge(rule, {"a": 1.2, "b": 1.0}) == OPEN
    assert apps.judge(rule, {"a": -1.3, "b": -1.0}) == FAILED
    assert apps.judge(rule, {"a": 0.0, "b": 0.0}) == OPEN
    assert "point estimates, no interval" in rule({"a": 1, "b": 2}).evidence
    distance = apps.claims.estimated("a", "distance", held=0.1, failed=0.2)
    assert [apps.judge(distance, {"a": value}) for value in (0.05, 0.15, 0.25, None)] == [HELD, OPEN, FAILED, OPEN]
    assert "point estimate, no interval" in distance({"a": 0.05}).evidence


def test_ranks_must_agree_beyond_chance(apps) -> None:
    rank = apps.intervals.rank_test
    rule = apps.claims.together(("a",), 1, 0.8, "order")
    assert apps.judge(rule, {"a": rank([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])}) == HELD
    assert apps.judge(rule, {"a": rank([1, 2, 3, 4, 5], [5, 4, 3, 2, 1])}) == FAILED
    assert apps.judge(rule, {"a": rank([1, 2, 3, 4], [1, 2, 3, 4])}) == OPEN  # 2 of 24 orders are as good
    assert apps.judge(rule, {"a": rank([1, 2, 3], [7, 7, 7])}) == OPEN


def test_one_failure_decides_before_what_cannot_be_tested(apps) -> None:
    claims = apps.claims
    rule = claims.everyone(claims.larger("a", "a"), claims.larger("b", "b"))
    assert apps.judge(rule, {"a": interval(0.1, 0.2), "b": interval(-1.0)}) == FAILED
    assert apps.judge(rule, {"a": interval(0.1, 0.2), "b": interval(1.0)}) == OPEN
    assert apps.judge(rule, {"a": interval(0.1), "b": interval(1.0)}) == HELD


def test_a_claim_about_several_data_sets_must_hold_on_each(apps) -> None:
    rule = apps.claims.everywhere(apps.claims.larger("a", "gap"))
    good, bad = {"a": interval(0.1)}, {"a": interval(-0.1)}
    assert apps.judge(rule, {"places": {"one": good}}) == HELD
    assert apps.judge(rule, {"places": {"one": good, "other": bad}}) == FAILED
    assert apps.judge(rule, {"places": {}}) == OPEN
    assert "other: gap: -10.0" in rule({"places": {"one": good, "other": bad}}).evidence


def test_a_missing_number_makes_a_claim_untestable(apps) -> None:
    finding = apps.claims.Claim("", apps.claims.larger("nowhere", "x")).judge({})
    assert finding == (OPEN, "no number for nowhere")


def test_few_images_that_differ_are_not_enough(apps) -> None:
    right = [1.0] * 96 + [0.0] * 96
    four = apps.intervals.paired([*right, 1.0, 1.0, 1.0, 1.0], [*right, 0.0, 0.0, 0.0, 0.0])
    assert four["p"] == 0.125  # McNemar's: two of sixteen ways
    assert apps.claims.sign_of(four) == OPEN
    ten = apps.intervals.paired([*right, *[1.0] * 10], [*right, *[0.0] * 10])
    assert apps.claims.sign_of(ten) == HELD
    shares = apps.intervals.paired([*right, 1.0, 0.75, 0.5, 0.25], [*right, 0.0, 0.0, 0.0, 0.0])
    assert shares["p"] == 0.125
    same = apps.intervals.paired([0.0] * 8, [0.0] * 8)
    assert same["low"] < -0.2 < 0.2 < same["high"]  # eight images without a difference show little


def test_intervals_on_the_same_images_agree_with_newcombes_example(apps) -> None:
    # 36, 12, 2 and 0 pairs, Newcombe 1998, Statistics in Medicine 17, 2635-2650, Table II: 0.2, 0.0569 to 0.3404
    found = apps.intervals.paired([1] * 48 + [0] * 2, [1] * 36 + [0] * 12 + [1] * 2)
    assert [found[key] for key in ("estimate", "low", "high")] == pytest.approx([0.2, 0.0569, 0.3404], abs=1e-4)


def test_separate_intervals_agree_with_newcombes_example(apps) -> None:
    # 56/70 against 48/80, Newcombe 1998, Statistics in Medicine 17, 873-890, Table II: 0.2, 0.0524 to 0.3339
    from rp_attacks.intervals import wilson_interval

    first, second = (wilson_interval(*pair)._asdict() for pair in ((56, 70), (48, 80)))
    found = apps.intervals.separate(first, second)
    assert found == pytest.approx({"estimate": 0.2, "low": 0.0524, "high": 0.3339}, abs=1e-4)  # printed digits
    twice = apps.intervals.separate(first, second, 2.0)
    assert twice["estimate"] == pytest.approx(0.8 - 1.2)
    assert twice["high"] - twice["low"] > found["high"] - found["low"]


def test_differences_of_both_orders_mirror_each_other(apps) -> None:
    found = apps.intervals.all_pairs({"a": [1.0, 1.0, 0.5, 0.0], "b": [0.5, 0.0, 0.5, 0.0]}, ", clean")
    assert set(found) == {"a>b, clean", "b>a, clean"}
    there, back = found.values()
    assert (back["estimate"], back["low"], back["high"]) == (-there["estimate"], -there["high"], -there["low"])


def test_errors_of_means_add_like_independent_ones(apps) -> None:
    found = apps.intervals.of_means((1.0, 5.0, 0.3), (-2.0, 1.0, 0.2))
    assert found["estimate"] == 3.0
    assert found["high"] - 3.0 == pytest.approx(1.96 * 0.5, rel=1e-4)  # the constant has six digits


def test_a_rank_correlation_over_images_has_an_interval(apps) -> None:
    found = apps.intervals.correlation(0.5, 103)
    assert [found["low"], found["high"]] == pytest.approx(
        [math.tanh(math.atanh(0.5) + side * 1.96 * math.sqrt(0.0106)) for side in (-1, 1)], abs=1e-5
    )
    assert apps.intervals.correlation(0.5, 3) is None
    assert apps.intervals.share_of(100.0, 20)["low"] == pytest.approx(0.8389, abs=1e-4)  # Wilson's of 20 of 20


class Number(float):
    """A made-up number that is an interval, a rank test and a row of seconds too."""

    def __getitem__(self, key):
        return {"p": 0.01, "points": 1000}.get(key, float(self))

    def get(self, key, default=None):
        return self[key]


class MadeUp(Mapping):
    """Numbers of every name, drawn when they are asked for."""

    def __init__(self, seed) -> None:
        self.random, self.found = random.Random(seed), {}
        self.bright = self.random.choice((0.1, 0.5, 0.9))  # how often a number is positive

    def number(self):
        size = self.random.choice((0.01, 0.5, 0.9, 2, 99))
        return Number(size if self.random.random() < self.bright else -size)

    def drawn(self, name):
        """What has another form than one number, by the end of its name."""
        n = self.number
        forms = {
            "places": lambda: Places(self),
            "ks": lambda: [8],
            ", 8": lambda: [n(), n()],
            ("CLS-95", "CLS-99", "robust"): lambda: [n()] * 3,
            "bounds": lambda: sorted((abs(n()), abs(n())), reverse=self.random.random() < 0.5),
            ("holds", "softmax", "correlation", "by steps"): lambda: [n(), n()],
            ("gaps", "small radii"): lambda: {"0.1": n()},
            "weights": lambda: {1.2: {"clean": n(), "autoattack": n()}},
            "AutoAttack": lambda: {0.0: n(), 1.2: n(), 2.4: n()},
            "slopes": lambda: {"first": n(), "last": n(), "gap": n()},
        }
        return next((form() for end, form in forms.items() if name.endswith(end)), n())

    def __getitem__(self, name):
        return self.found.setdefault(name, self.drawn(name))

    def __iter__(self):
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


class Places(Mapping):
    """Every data set and run has the same made-up numbers."""

    def __init__(self, numbers) -> None:
        self.numbers = numbers

    def __getitem__(self, name):
        return self.numbers

    def __iter__(self):
        return iter(("digits",))

    def __len__(self) -> int:
        return 1


def test_every_claim_can_hold_and_can_fail(apps) -> None:
    undecided = set()
    for item in apps.items.values():
        for claim in item.claims:
            seen = set()
            for seed in range(1000):
                seen.add(claim.judge(MadeUp(seed)).verdict)
                if {HELD, FAILED} <= seen:
                    break
            else:
                undecided.add(claim.text)
    assert undecided == UNDECIDED


def test_claims_that_name_an_order_follow_it(apps) -> None:
    def judge(key, text, numbers):
        (claim,) = (claim for claim in apps.items[key].claims if text in claim.text)
        return claim.judge(numbers).verdict

    better, worse = interval(0.2, 0.05), interval(-0.2, 0.05)
    tuned = "Robust fine-tuning raises the robust accuracy of MAE-Pure, in {}."
    pair = {"rmae_pure>mae_pure": better, "l2: rmae_pure>mae_pure": worse}
    assert judge("mae-pure/table-1", tuned.format("Linf"), pair) == HELD
    assert judge("mae-pure/table-1", tuned.format("L2"), pair) == FAILED
    dra = ("dm-at+dra>dm-at, clean", "dm-at+dra>dm-at, autoattack")
    mixed = {"places": {"any": {dra[0]: worse, dra[1]: better}, "imagenet-vit-b16": {dra[0]: worse, dra[1]: better}}}
    assert judge("dra/table-1", "DRA raises the clean accuracy of DM-AT.", mixed) == FAILED
    assert judge("dra/table-1", "DRA raises the robust accuracy of DM-AT.", mixed) == HELD
    assert judge("dra/table-1", "ImageNet, ViT", mixed) == FAILED
    assert judge("dra/table-1", "ImageNet, ViT", {"places": {"imagenet-vit-b16": dict.fromkeys(dra, better)}}) == HELD
    assert judge("dra/table-1", "ImageNet, ViT", {"places": {"digits": dict.fromkeys(dra, better)}}) == OPEN
    others = ("diffpure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
    least = {f"l2: {row}>mae_pure": better for row in others}
    assert judge("mae-pure/table-7", "least robust", least) == HELD
    assert judge("mae-pure/table-7", "least robust", least | {"l2: rmae_pure>mae_pure": worse}) == FAILED
    times = {"mae_pure": {"fastest": 1.0, "slowest": 2.0, "steps": 4}, "repeats": 5}
    slow = {"places": {"digits": {**times, "maskdit_pure": {"fastest": 2.5, "slowest": 3.0, "steps": 4}}}}
    near = {"places": {"digits": {**times, "maskdit_pure": {"fastest": 1.5, "slowest": 3.0, "steps": 4}}}}
    assert judge("mae-pure/table-10", "MAE-Pure is faster than MaskDiT-Pure", slow) == HELD
    assert judge("mae-pure/table-10", "MAE-Pure is faster than MaskDiT-Pure", near) == OPEN


class Asked(Mapping):
    """The numbers of an item, with a made-up one for each that is not there, and the names of those."""

    def __init__(self, numbers, missing, made_up) -> None:
        self.numbers, self.missing, self.made_up = numbers, missing, made_up

    def __getitem__(self, name):
        if name not in self.numbers:
            self.missing.add(name)
            return self.made_up[name]
        if name == "places":
            return {place: Asked(inner, self.missing, self.made_up) for place, inner in self.numbers[name].items()}
        return self.numbers[name]

    def __contains__(self, name) -> bool:
        self[name]
        return name in self.numbers

    def __iter__(self):
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def asked_in_vain(items, made):
    """What claims ask for and `look` does not give.

    Args:
        items: by key.
        made: gives the finished products of an item by role.
    """
    missing = set()
    for item in items.values():
        products = made(item)
        if products:
            numbers = item.look(products).numbers
            json.dumps(numbers, allow_nan=False)  # what is not defined is null, not an infinity
            names = set()
            for claim in item.claims:
                claim.check(Asked(numbers, names, MadeUp(0)))
            missing |= {f"{item.key}: {name}" for name in names}
    return missing


def test_a_mistyped_key_is_found(apps) -> None:
    from rp_experiments.papers.claims import Claim, everyone, larger
    from rp_experiments.papers.item import Outcome

    claims = (Claim("", everyone(larger("gap", "x"), larger("gpa", "x"))),)
    item = SimpleNamespace(key="item", claims=claims, look=lambda made: Outcome(numbers={"gap": interval(0.1)}))
    assert asked_in_vain({"item": item}, lambda item: {"role": None}) == {"item: gpa"}


def test_items_give_every_number_that_their_claims_ask_for(apps, monkeypatch) -> None:
    monkeypatch.setattr(apps.intervals, "paired", lambda first, second: interval(0.1, 0.05, p=0.01))  # names count here
    recorded = json.loads(RECORDED.read_text())
    plan = apps.scales["digits"]()
    files = {product.name: recorded[place] for place, product in products_of(plan).items()}

    class Recorded(apps.made):
        def read(self, name="result.json"):
            return files[self.product.name][name]

        def has(self, name):
            return name in files[self.product.name]

    def made(item):
        return {role: Recorded(product, None) for role, product in item.products(plan).items()}

    assert asked_in_vain(apps.items, made) == set()


@pytest.mark.slow
def test_items_give_every_number_from_products_that_are_made_now(apps, tmp_path) -> None:
    app("reproduce", "all", "--scale", "smoke", "--out", "made", "--cache", "cache", "--processes", 1, cwd=tmp_path)
    plan, shelf = apps.scales["smoke"](), apps.shelf(tmp_path / "made")
    missing = asked_in_vain(
        apps.items, lambda item: {role: shelf.get(one) for role, one in item.products(plan).items()}
    )
    assert {name for name in missing if not any(row in name for row in ABSENT_AT_SMOKE)} == set()
