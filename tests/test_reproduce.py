"""`reproduce.py` and `report.py`: items, claims, products that are made once, and the page."""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from rp_experiments.artifacts import Artifact, Store, in_order
from rp_experiments.jobs import Cluster, Jobs
from rp_experiments.papers import items, printed
from rp_experiments.papers.listing import chosen
from rp_experiments.papers.plan import SHARED
from rp_experiments.papers.scales import SCALES
from rp_experiments.papers.tiers import TIERS

from .running import ROOT, app, process, without_torch

ITEMS = {
    *(f"mae-pure/fig-{name}" for name in ("1", "2-8", "4", "5", "6", "7")),
    *(f"mae-pure/table-{number}" for number in range(1, 13)),
    *(f"mae-pure/theorem-{name}" for name in ("3.1", "3.2", "j.1")),
    *(f"dra/fig-{name}" for name in ("1-9", "3a", "3b", "4", "5", "6", "7", "8", "10")),
    *(f"dra/table-{number}" for number in (1, 2, 3)),
    *("dra/section-5.6-target", "dra/section-5.6-finetune", "dra/appendix-c"),
}
SMOKE = ("reproduce", "dra/table-1", "--scale", "smoke", "--device", "cpu", "--launcher", "here", "--cache", "cache")


@pytest.fixture(scope="module")
def plans():
    return {name: make() for name, make in SCALES.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One item made at the smallest size, once more, and a page of it."""
    work = tmp_path_factory.mktemp("work")
    commands = {
        "made": (*SMOKE, "--out", "made", "--page", "--tensorboard"),
        "again": (*SMOKE, "--out", "made"),
        "report": ("report", "--run", "made", "--out", "page"),
        "empty": ("report", "--run", "cache", "--out", "page"),
        "no data": ("reproduce", "mae-pure/table-2", "--scale", "paper", "--data-root", "nowhere", "--out", "x"),
    }
    as_a_user = ("made", "report")
    done = {
        name: (process if name in as_a_user else app)(*words, cwd=work, status=None) for name, words in commands.items()
    }
    return done, work


def test_every_table_figure_and_theorem_is_an_item() -> None:
    assert set(items.ITEMS) == ITEMS
    assert all(item.claims and item.title for item in items.ITEMS.values())


def test_items_are_named_as_the_papers_name_them() -> None:
    names = {"mae-pure/fig-2-8": "Fig. 2 and 8", "mae-pure/theorem-j.1": "Theorem J.1", "dra/table-1": "Table 1"}
    names |= {"dra/section-5.6-target": "Section 5.6 (target)", "dra/appendix-c": "Appendix C"}
    assert {key: items.ITEMS[key].name for key in names} == names


def test_every_item_has_products_wherever_its_data_are_part_of_the_scale(plans) -> None:
    for scale, plan in plans.items():
        without = {key for key, item in items.ITEMS.items() if not item.products(plan)}
        assert without == (set() if scale == "paper" else {"mae-pure/table-2", "mae-pure/table-4"})


def test_every_product_has_a_maker(plans) -> None:
    from rp_experiments.papers.makers import MAKERS

    everything = [one for plan in plans.values() for item in items.ITEMS.values() for one in item.needed(plan)]
    assert {artifact.job for artifact in everything} == set(MAKERS)


def test_the_papers_tables_are_complete_and_each_is_shown_by_an_item() -> None:
    files = {file.stem for file in printed.FOLDER.glob("*.tsv")}
    assert files == {name for item in items.ITEMS.values() for name in item.printed}
    table = printed.paper_table("mae-pure-table-12")
    assert table.source.startswith("Table 12 of")
    assert table.rows[1]["25"] == "62.13"


def test_list_and_wrong_names_need_no_torch(tmp_path) -> None:
    commands = {
        "list": ("reproduce", "list", "--scale", "paper"),
        "list of digits": ("reproduce", "list", "--scale", "digits"),
        "unknown": ("reproduce", "dra/table-9"),
        "no process": ("reproduce", "all", "--processes", "0"),
    }
    done = without_torch(commands, tmp_path)
    listed = done["list"].stdout
    assert all(key in listed for key in ITEMS)
    assert "imagenet" in listed
    given = {line.strip().partition(": ")[0] for line in listed.partition("to be given")[2].splitlines()}
    assert {"edm-cifar10-32x32-cond-vp", "lightningdit-xl-1", "cifar10/1m.npz"} <= given
    (line,) = (line for line in done["list of digits"].stdout.splitlines() if line.startswith("mae-pure/fig-1 "))
    assert "made: classifier" in line
    assert "shipped: mae-digits" in line
    assert done["unknown"].returncode == 2
    assert "no item dra/table-9" in done["unknown"].message
    assert done["no process"].returncode == 2


def test_the_papers_plan_is_shown_with_its_scripts_and_all_that_is_missing_and_nothing_starts(tmp_path) -> None:
    words = ("all", "--scale", "paper", "--launcher", "slurm", "--slurm.account=lab", "--data-root", "nowhere")
    done = app("reproduce", *words, "--gpus-per-node", "8", "--dry-run", "--out", "x", cwd=tmp_path)
    plan = SCALES["paper"]()
    needed = in_order(one for item in items.ITEMS.values() for one in item.needed(plan))
    lines = {line.partition(" ")[0]: line for line in done.stdout.splitlines()}
    assert {one.name for one in needed} <= lines.keys()
    assert all(need.name in lines[one.name] for one in needed for need in one.needs.values())
    for word in ("GPU-hours of H100", "edm-cifar10-32x32-cond-vp: ", "cifar10/1m.npz: ", "cifar100: no train"):
        assert word in done.stdout
    written = {file.name: file.read_text() for file in (tmp_path / "x" / "plan").iterdir()}
    assert {f"{one.name}.sh" for one in needed} | {"plan.txt", "settings.json"} == written.keys()
    for one in needed:
        ranks = 8 if one.job in SHARED else 1
        for line in (f"--ntasks-per-node={ranks}", f"--gpus-per-node={ranks}", "--account=lab"):
            assert f"#SBATCH {line}\n" in written[f"{one.name}.sh"], one.name
    comparison = json.loads(written["settings.json"])[plan.comparisons["cifar10"].name]
    assert (comparison["budget"]["steps"], comparison["budget"]["eot"], comparison["images"]) == (200, 20, 512)
    assert comparison["rows"]["mae_pure"]["steps"] == 150
    refused = app("reproduce", *words, "--out", "y", cwd=tmp_path, status=2)  # and no GPUs are asked for
    assert "nothing is started" in refused.message
    assert "add --gpus-per-node" in refused.message
    assert not (tmp_path / "y" / "jobs").exists()
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["plan"]


def test_tiers_grow_are_parts_of_the_scale_and_say_what_they_lack() -> None:
    everything = SCALES["paper"]()
    before: dict[str, set[str]] = {}
    for number, tier in TIERS["paper"].items():
        plan = SCALES["paper"](tier=number)
        made = {one.name for item in chosen(("all",), tier) for one in item.needed(plan)}
        parts = {f"run {name}": {*run.config.method} for name, run in plan.runs.items() if run.name in made}
        parts |= {f"of {data}": {*of.config.only} for data, of in plan.comparisons.items() if of.name in made}
        assert all(part <= parts.get(name, set()) for name, part in before.items()), number
        assert parts != before
        before = parts
        assert all(item.parts(plan) for item in chosen(("all",), tier)) or not tier.items, "something of each"
    assert {name: run.name for name, run in plan.runs.items()} == {n: run.name for n, run in everything.runs.items()}
    assert [len(chosen(("all",), tier)) for tier in TIERS["paper"].values()][-1] == len(ITEMS)
    with pytest.raises(ValueError, match="take a higher --tier"):
        chosen(("mae-pure/table-4",), TIERS["paper"][1])
    with pytest.raises(ValueError, match="the scale digits has no tiers"):
        SCALES["digits"](tier=1)


@dataclass(frozen=True)
class Setting:
    value: int = 0


@pytest.fixture
def workshop(monkeypatch, tmp_path):
    """Artifacts that cost nothing, and a record of what was made."""
    from rp_experiments.papers import graph, makers

    made = []

    def maker(config, run, needs):
        if config.value < 0:
            raise OSError("no space")
        folder = run.claim(config).folder
        made.append(config.value)
        folder.write_json("result.json", {"value": config.value, "needs": [need.name for need in needs.values()]})

    monkeypatch.setitem(makers.MAKERS, "test", maker)
    store = Store(tmp_path)

    def make(*artifacts):
        needed = {artifact.name: artifact for artifact in in_order(artifacts)}
        missing = [artifact for artifact in needed.values() if not store.has(artifact)]
        jobs = Jobs(Cluster(), store.path, lambda name: store.has(needed[name]))
        return jobs.run(graph.jobs_of(missing, store, {"device": "cpu"}))

    def artifact(value, **needs):
        return Artifact(job="test", config=Setting(value), minutes=value, needs=needs)

    return SimpleNamespace(make=make, product=artifact, store=store, made=made)


def test_products_are_made_once_after_what_they_need(workshop) -> None:
    base = workshop.product(1)
    both = [workshop.product(2, base=base), workshop.product(3, base=base)]
    assert workshop.make(*both) == {}
    assert workshop.made == [1, 3, 2]  # the need first, then the longest
    assert workshop.store.get(both[0]).read()["needs"] == [base.name]
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
    folder = workshop.store.folder(product)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"value": 5}')
    (folder / "environment.json").write_text("{}")
    assert not workshop.store.has(product)
    assert workshop.make(product) == {}
    assert workshop.store.has(product)


def test_an_item_is_made_and_a_second_call_does_no_work(runs) -> None:
    done, work = runs
    assert done["made"].returncode == 0, done["made"].stderr
    assert "1 products to make" in done["made"].stdout
    assert done["again"].returncode == 0
    assert "0 products to make" in done["again"].stdout
    assert "..." not in done["again"].stderr
    assert [line for line in done["made"].stdout.splitlines() if line.startswith("dra/table-1")] == [
        line for line in done["again"].stdout.splitlines() if line.startswith("dra/table-1")
    ]
    record = json.loads((work / "made" / "items" / "dra-table-1.json").read_text())
    methods = record["tables"][0]["rows"]
    assert [row["method"] for row in methods] == ["standard training", "AT", "AT+DRA", "DM-AT", "DM-AT+DRA"]
    assert "AutoAttack" in (work / "made" / "report" / "index.html").read_text()
    drawn = {file.parent.name for file in (work / "made" / "tensorboard").rglob("events.*")}
    assert len(drawn) == 1, "of the one product, whose metrics are those of all its trainings"
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
    assert done["report"].returncode == 0, done["report"].stderr
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


def test_verdicts_are_counted_scale_by_scale(runs) -> None:
    from rp_experiments.papers.claims import ELSEWHERE, OPEN, VERDICTS
    from rp_experiments.papers.report import Run, counts

    _, work = runs
    record = json.loads((work / "made" / "items" / "dra-table-1.json").read_text())
    number = len(record["claims"])
    open_, held = (
        {**record, "scale": scale, "claims": [{**claim, "verdict": verdict} for claim in record["claims"]]}
        for scale, verdict in (("large", "not testable at this scale"), ("small", "held"))
    )
    both = [Run(work, {"dra/table-1": held}), Run(work, {"dra/table-1": open_})]
    found = counts(list(items.ITEMS.values()), both)
    elsewhere = sum(bool(claim.needs) for claim in items.ITEMS["dra/table-1"].claims)
    none = dict.fromkeys(VERDICTS, 0)
    assert found["small"]["DRA"] == none | {"held": number}
    assert found["large"]["DRA"] == none | {OPEN: number - elsewhere, ELSEWHERE: elsewhere}
    assert set(found["large"]["MAE-Pure"].values()) == {0}


def test_settings_are_shown_with_all_their_parts() -> None:
    from rp_experiments.papers.report import flat

    setting = {"data": "digits", "eps": 0.15, "root": None, "strength": {"steps": 15, "fab_steps": 20}, "seeds": [0, 1]}
    assert flat(setting) == "data digits, eps 0.15, strength (steps 15, fab steps 20), seeds 0 1"


def test_the_claim_table_has_every_claim_with_a_link(runs) -> None:
    _, work = runs
    text = (work / "page" / "claims.md").read_text()
    claims = items.ITEMS["dra/table-1"].claims
    lines = [line for line in text.splitlines() if line.startswith("| [")]
    ours = [line for line in lines if "index.html#dra-table-1)" in line]
    all_apart = [line for line in text.splitlines() if " --scale paper`" in line]
    apart = [line for line in all_apart if "`uv run apps/reproduce.py dra/table-1 --scale paper`" in line]
    assert len(lines) + len(all_apart) == sum(len(item.claims) for item in items.ITEMS.values())
    assert [claim.text in line for claim, line in zip([c for c in claims if c.needs], apart, strict=True)] == [True] * 6
    assert len(ours) == len(claims) - len(apart)
    said = ("held", "did not hold", "not testable at this scale", "no interval)")
    assert all(line.rstrip(" |").endswith(said) or "not after correction" in line for line in ours)
    results = json.loads((work / "page" / "reproduce-smoke.json").read_text())
    assert [item["item"] for item in results["items"]] == ["dra/table-1"]


def test_what_is_missing_is_one_sentence(runs) -> None:
    done, _ = runs
    assert done["empty"].returncode == 2
    assert "holds no items" in done["empty"].message
    assert done["no data"].returncode == 2
    assert "cifar100" in done["no data"].message.lower().replace("-", "")
    assert "Traceback" not in done["no data"].stderr


def test_the_committed_claims_are_those_of_the_committed_numbers() -> None:
    from rp_experiments.papers.report import Run, claims_markdown, power_markdown
    from rp_experiments.papers.verdicts import hours

    files = [ROOT / "docs" / "results" / f"reproduce-{scale}.json" for scale in ("digits", "fashion-mnist")]
    found = [json.loads(file.read_text()) for file in files]
    runs = [Run(ROOT, {record["item"]: record for record in one["items"]}) for one in found]
    results, report, every = ROOT / "docs" / "results", ROOT / "docs" / "report", list(items.ITEMS.values())
    assert claims_markdown(every, runs, hours(results / "hours-paper.json")) == (report / "claims.md").read_text()
    power = power_markdown(every, runs, results / "train_dra-digits-seeds.json")
    assert power == (report / "power.md").read_text()
    page = Page((ROOT / "docs" / "report" / "index.html").read_text())
    assert {key.replace("/", "-") for key in ITEMS} <= page.ids
    said = " ".join(" ".join(page.words).split())
    evidence = {claim["evidence"] for run in runs for record in run.items.values() for claim in record["claims"]}
    assert all(" ".join(one.split()) in said for one in evidence)
