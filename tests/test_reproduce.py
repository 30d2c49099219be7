"""`reproduce.py` and `report.py`: items, claims, products that are made once, and the page."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from .test_purification_apps import ROOT, session

ITEMS = {
    *(f"mae-pure/fig-{name}" for name in ("1", "2-8", "4", "5", "6", "7")),
    *(f"mae-pure/table-{number}" for number in range(1, 13)),
    *(f"mae-pure/theorem-{name}" for name in ("3.1", "3.2", "j.1")),
    *(f"dra/fig-{name}" for name in ("1-9", "3a", "3b", "4", "5", "6", "7", "8", "10")),
    *(f"dra/table-{number}" for number in (1, 2, 3)),
    *("dra/section-5.6-target", "dra/section-5.6-finetune", "dra/appendix-c"),
}
SMOKE = ("reproduce.py", "dra/table-1", "--scale", "smoke", "--device", "cpu", "--processes", "1", "--cache", "cache")


@pytest.fixture(scope="module")
def apps():
    """The modules of the apps; none of the first ones imports torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "apps"))
        import reproductions.claims as claims
        import reproductions.intervals as intervals
        import reproductions.papers as papers
        import reproductions.product as product
        from recipes.reproduction import SCALES
        from reproductions.registry import ITEMS as items

        yield SimpleNamespace(
            claims=claims, intervals=intervals, papers=papers, product=product, scales=SCALES, items=items
        )


@pytest.fixture(scope="module")
def plans(apps):
    return {name: make() for name, make in apps.scales.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One item made at the smallest size, once more, and a page of it."""
    work = tmp_path_factory.mktemp("work")
    commands = {
        "made": (*SMOKE, "--out", "made"),
        "again": (*SMOKE, "--out", "made"),
        "report": ("report.py", "--run", "made", "--out", "page"),
        "empty": ("report.py", "--run", "cache", "--out", "page"),
        "no data": ("reproduce.py", "mae-pure/table-2", "--scale", "paper", "--data-root", "nowhere", "--out", "x"),
    }
    done, _ = session(commands, work)
    return done, work


def interval(estimate, half=0.0):
    return {"estimate": estimate, "low": estimate - half, "high": estimate + half}


def test_every_table_figure_and_theorem_is_an_item(apps) -> None:
    assert set(apps.items) == ITEMS
    assert all(item.claims and item.title for item in apps.items.values())


def test_every_item_has_products_wherever_its_data_are_part_of_the_scale(apps, plans) -> None:
    for scale, plan in plans.items():
        without = {key for key, item in apps.items.items() if not item.products(plan)}
        assert without == (set() if scale == "paper" else {"mae-pure/table-2", "mae-pure/table-4"})


def test_every_product_has_a_maker(apps, plans) -> None:
    from reproductions.making import MAKERS

    everything = [p for plan in plans.values() for i in apps.items.values() for p in i.products(plan).values()]
    assert {product.job for product in apps.product.in_order(everything)} == set(MAKERS)


def test_the_papers_tables_are_complete_and_each_is_shown_by_an_item(apps) -> None:
    files = {file.stem for file in apps.papers.FOLDER.glob("*.tsv")}
    assert files == {name for item in apps.items.values() for name in item.printed}
    table = apps.papers.paper_table("mae-pure-table-12")
    assert table.source.startswith("Table 12 of")
    assert dict(zip(table.columns, table.rows[1], strict=True))["25"] == "62.13"


def test_list_dry_run_and_wrong_names_need_no_torch(tmp_path) -> None:
    commands = {
        "list": ("reproduce.py", "list", "--scale", "paper"),
        "dry run": ("reproduce.py", "mae-pure/table-1", "dra/table-2", "--scale", "paper", "--dry-run"),
        "unknown": ("reproduce.py", "dra/table-9"),
        "no process": ("reproduce.py", "all", "--processes", "0"),
    }
    done, torch = session(commands, tmp_path)
    assert not torch
    listed = done["list"].out
    assert all(key in listed for key in ITEMS)
    assert "imagenet" in listed
    resolved = json.loads(done["dry run"].out)
    assert set(resolved) == {"mae-pure/table-1", "dra/table-2"}
    comparison = next(value for name, value in resolved["mae-pure/table-1"].items() if name.startswith("compare-"))
    assert (comparison["budget"]["steps"], comparison["budget"]["eot"], comparison["images"]) == (200, 20, 512)
    assert comparison["rows"]["mae_pure"]["steps"] == 150
    assert done["unknown"].status == 2
    assert "no item dra/table-9" in done["unknown"].message
    assert done["no process"].status == 2


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (interval(0.1, 0.05), "held"),
        (interval(-0.1, 0.05), "did not hold"),
        (interval(0.1, 0.2), "not testable at this scale"),
    ],
)
def test_a_difference_counts_if_its_whole_interval_is_on_one_side(apps, difference, verdict) -> None:
    claim = apps.claims.Claim("one is larger", apps.claims.larger("gap", "one minus other"))
    finding = claim.judge({"gap": difference})
    assert finding.verdict == verdict
    assert "one minus other: " in finding.evidence


def test_rules_say_held_and_not_held_for_the_right_numbers(apps) -> None:
    claims = apps.claims
    cases = [
        (claims.reaches("a", 0.8, "value"), {"a": 0.9}, {"a": 0.7}),
        (claims.above("a", "b", "values"), {"a": 2, "b": 1}, {"a": 1, "b": 2}),
        (
            claims.everyone(claims.above("a", "b", "x"), claims.reaches("b", 0, "y")),
            {"a": 2, "b": 1},
            {"a": 2, "b": -1},
        ),
    ]
    for rule, good, bad in cases:
        assert claims.Claim("", rule).judge(good).verdict == "held"
        assert claims.Claim("", rule).judge(bad).verdict == "did not hold"


def test_one_failure_decides_before_what_cannot_be_tested(apps) -> None:
    claims = apps.claims
    rule = claims.everyone(claims.larger("a", "a"), claims.larger("b", "b"))
    judge = claims.Claim("", rule).judge
    assert judge({"a": interval(0.1, 0.2), "b": interval(-1.0)}).verdict == "did not hold"
    assert judge({"a": interval(0.1, 0.2), "b": interval(1.0)}).verdict == "not testable at this scale"


def test_a_missing_number_makes_a_claim_untestable(apps) -> None:
    finding = apps.claims.Claim("", apps.claims.larger("nowhere", "x")).judge({})
    assert finding == ("not testable at this scale", "no number for nowhere")


class Number(float):
    """A made-up number that is an interval too."""

    def __getitem__(self, key):
        return float(self)


class MadeUp(Mapping):
    """Numbers of every name, drawn when they are asked for."""

    def __init__(self, seed) -> None:
        self.random, self.found = random.Random(seed), {}

    def number(self):
        return Number(self.random.choice((-99, -2, -0.5, -0.01, 0.01, 0.5, 2, 99)))

    def __getitem__(self, name):
        lists = {"ks": [8], "bounds": sorted(self.number() for _ in range(2)), "models": self.random.choice((5, 50))}
        if self.random.random() < 0.5:
            lists["bounds"].reverse()
        lists["gaps"] = {"0.1": self.number()}
        lists["weights"] = {1.2: {"clean": self.number(), "autoattack": self.number()}}
        lists["transfer, by steps"] = [self.number(), self.number()]
        return self.found.setdefault(name, lists.get(name) or self.number())

    def __iter__(self):
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def test_every_claim_can_hold_and_can_fail(apps) -> None:
    for item in apps.items.values():
        for claim in item.claims:
            seen = set()
            for seed in range(4000):
                seen.add(claim.judge(MadeUp(seed)).verdict)
                if {"held", "did not hold"} <= seen:
                    break
            assert {"held", "did not hold"} <= seen, f"{item.key}: {claim.text}"


def test_claims_that_name_an_order_follow_it(apps) -> None:
    def judge(key, text, numbers):
        (claim,) = (claim for claim in apps.items[key].claims if text in claim.text)
        return claim.judge(numbers).verdict

    better, worse = interval(0.2, 0.05), interval(-0.2, 0.05)
    tuned = "Robust fine-tuning raises the robust accuracy of MAE-Pure"
    pair = ("rmae_pure>mae_pure", "l2: rmae_pure>mae_pure")
    assert judge("mae-pure/table-1", tuned, dict.fromkeys(pair, better)) == "held"
    assert judge("mae-pure/table-1", tuned, {pair[0]: better, pair[1]: worse}) == "did not hold"
    dra = ("dm-at+dra>dm-at, clean", "dm-at+dra>dm-at, autoattack")
    assert judge("dra/table-1", "DRA raises", dict.fromkeys(dra, better)) == "held"
    assert judge("dra/table-1", "DRA raises", {dra[0]: worse, dra[1]: better}) == "did not hold"
    bpda = {f"{row}, bpda minus worst": worse for row in ("mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")}
    assert judge("mae-pure/table-11", "no attack does better", bpda) == "held"
    assert (
        judge("mae-pure/table-11", "no attack does better", bpda | {"mae_pure, bpda minus worst": better})
        == "did not hold"
    )


def test_separate_intervals_agree_with_newcombes_example(apps) -> None:
    # 56/70 against 48/80, Newcombe 1998, Table II (a): 0.2, 0.0524 to 0.3339
    from rp_attacks.intervals import wilson_interval

    first, second = (wilson_interval(*pair)._asdict() for pair in ((56, 70), (48, 80)))
    found = apps.intervals.separate(first, second)
    assert found == pytest.approx({"estimate": 0.2, "low": 0.0524, "high": 0.3339}, abs=1e-4)  # printed digits


@dataclass(frozen=True)
class Setting:
    value: int = 0


@pytest.fixture
def workshop(apps, monkeypatch, tmp_path):
    """Products that cost nothing, and a record of what was made."""
    import reproductions.making as making
    from jobs import reproduce

    made = []

    def maker(job):
        value = job.product.config.value
        if value < 0:
            raise OSError("no space")
        folder = job.run_folder()
        made.append(value)
        folder.write_json("result.json", {"value": value, "needs": [need.name for need in job.needs.values()]})

    monkeypatch.setitem(making.MAKERS, "test", maker)
    shelf = apps.product.Shelf(tmp_path)
    where = making.Where("cpu", tmp_path / "cache")

    def make(*products):
        missing = [product for product in apps.product.in_order(products) if not shelf.has(product)]
        return reproduce.make_all(missing, shelf, where, 1)

    def product(value, **needs):
        return apps.product.Product(job="test", config=Setting(value), minutes=value, needs=needs)

    return SimpleNamespace(make=make, product=product, shelf=shelf, made=made)


def test_products_are_made_once_after_what_they_need(workshop) -> None:
    base = workshop.product(1)
    both = [workshop.product(2, base=base), workshop.product(3, base=base)]
    assert workshop.make(*both) == {}
    assert workshop.made == [1, 3, 2]  # the need first, then the longest
    assert workshop.shelf.get(both[0]).read()["needs"] == [base.name]
    assert workshop.make(*both) == {}
    assert workshop.made == [1, 3, 2]


def test_another_setting_or_need_is_another_product(workshop) -> None:
    base, other = workshop.product(1), workshop.product(2)
    names = {workshop.product(3).name, workshop.product(3, base=base).name, workshop.product(3, base=other).name}
    assert len({*names, workshop.product(4).name}) == 4
    assert workshop.product(3).name in names  # the same again has the same name


def test_a_product_that_cannot_be_made_stops_only_what_needs_it(workshop) -> None:
    bad = workshop.product(-1)
    failed = workshop.make(workshop.product(2, base=bad), workshop.product(3))
    assert list(failed) == [bad.name]
    assert "no space" in failed[bad.name]
    assert workshop.made == [3]


def test_an_interrupted_product_is_not_finished(workshop) -> None:
    product = workshop.product(5)
    folder = workshop.shelf.folder(product)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"value": 5}')
    (folder / "environment.json").write_text("{}")
    assert not workshop.shelf.has(product)
    assert workshop.make(product) == {}
    assert workshop.shelf.has(product)


def test_an_item_is_made_and_a_second_call_does_no_work(runs) -> None:
    done, work = runs
    assert done["made"].status == 0, done["made"].err
    assert "1 products to make" in done["made"].out
    assert done["again"].status == 0
    assert "0 products to make" in done["again"].out
    assert "..." not in done["again"].err
    assert [line for line in done["made"].out.splitlines() if line.startswith("dra/table-1")] == [
        line for line in done["again"].out.splitlines() if line.startswith("dra/table-1")
    ]
    record = json.loads((work / "made" / "items" / "dra-table-1.json").read_text())
    methods = record["tables"][0]["rows"]
    assert [row["method"] for row in methods] == ["standard training", "AT", "AT+DRA", "DM-AT", "DM-AT+DRA"]
    for row in methods:
        assert 0 <= row["AutoAttack"]["low"] <= row["AutoAttack"]["estimate"] <= row["clean"]["estimate"] <= 1
    (product,) = record["products"].values()
    folder = work / "made" / product["folder"]
    result = json.loads((folder / "result.json").read_text())
    assert methods[3]["clean"]["estimate"] == result["methods"]["dm-at"]["clean"]["estimate"]
    assert product["setting"]["eps"] == 0.15
    assert product["environment"]["versions"]["torch"]


class Page(HTMLParser):
    """What a page has: identifiers, links, pictures, text."""

    def __init__(self, text) -> None:
        super().__init__()
        self.ids, self.links, self.pictures, self.open, self.words = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" else []
        self.pictures += [found["src"]] if tag == "img" else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)


def test_the_page_holds_every_item_and_needs_nothing_outside(runs) -> None:
    done, work = runs
    assert done["report"].status == 0, done["report"].err
    text = (work / "page" / "index.html").read_text()
    page = Page(text)
    assert page.open == []
    assert {key.replace("/", "-") for key in ITEMS} <= page.ids
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.pictures
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures)
    assert "http" not in text
    words = " ".join(page.words)
    assert "92.44" in words  # the paper's number
    assert "products/train_dra-" in words  # where ours come from
    assert words.count("Not run yet.") == len(ITEMS) - 1


def test_the_claim_table_has_every_claim_with_a_link(runs, apps) -> None:
    _, work = runs
    lines = (work / "page" / "claims.md").read_text().splitlines()[2:]
    assert len(lines) == sum(len(item.claims) for item in apps.items.values())
    ours = [line for line in lines if "index.html#dra-table-1)" in line]
    assert len(ours) == len(apps.items["dra/table-1"].claims)
    assert all(line.rstrip(" |").endswith(("held", "did not hold", "not testable at this scale")) for line in ours)
    results = json.loads((work / "page" / "reproduce-smoke.json").read_text())
    assert [item["item"] for item in results["items"]] == ["dra/table-1"]


def test_what_is_missing_is_one_sentence(runs) -> None:
    done, _ = runs
    assert done["empty"].status == 2
    assert "holds no items" in done["empty"].message
    assert done["no data"].status == 2
    assert "cifar100" in done["no data"].message.lower().replace("-", "")
    assert "Traceback" not in done["no data"].err
