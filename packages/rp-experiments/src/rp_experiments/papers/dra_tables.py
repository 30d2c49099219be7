"""Tables 1 and 2 of the DRA paper: accuracies of its methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Made
from rp_experiments.papers.claims import OPEN, Check, Claim, Finding, Limits, Numbers, everyone, everywhere, larger
from rp_experiments.papers.intervals import all_pairs
from rp_experiments.papers.item import Figure, Item, Outcome, Products, Row, Table

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

TITLES = {
    "standard": "standard training",
    "at": "AT",
    "at+dra": "AT+DRA",
    "at+adr": "AT+ADR",
    "at+ikl": "AT+IKL",
    "dm-at": "DM-AT",
    "dm-at+dra": "DM-AT+DRA",
    "dm-at+ikl": "DM-AT+IKL",
}


def limits(cell: Mapping[str, Any]) -> Limits:
    """Estimate and limits of a counted accuracy."""
    return {key: cell[key] for key in ("estimate", "low", "high")}


def _rows(made: Made) -> list[Row]:
    """A run's methods with their accuracies."""
    return [
        {"method": TITLES.get(name, name), "clean": limits(row["clean"]), "AutoAttack": limits(row["autoattack"])}
        for name, row in made.read()["methods"].items()
    ]


def _differences(*runs: Made) -> dict[str, Limits]:
    """For all pairs of methods of runs on the same images: `dm-at+dra>dm-at, clean`, and under AutoAttack."""
    right = {method: kinds for run in runs for method, kinds in run.read("images.json").items()}
    return {
        pair: difference
        for kind in ("clean", "autoattack")
        for pair, difference in all_pairs({name: found[kind] for name, found in right.items()}, f", {kind}").items()
    }


_KINDS = {"clean": "clean", "autoattack": "AutoAttack"}


def _beats(better: str, worse: str, kinds: Sequence[str] = tuple(_KINDS)) -> Check:
    """That one method beats another one, on clean images and under AutoAttack."""
    text = f"{TITLES[better]} minus {TITLES[worse]}"
    return everyone(*(larger(f"{better}>{worse}, {kind}", f"{text}, {_KINDS[kind]}") for kind in kinds))


def _wherever(*pairs: tuple[str, str], kinds: Sequence[str] = tuple(_KINDS)) -> Check:
    """That methods beat others in every run that has them all."""
    keys = [f"{better}>{worse}, clean" for better, worse in pairs]
    check = everywhere(everyone(*(_beats(*pair, kinds) for pair in pairs)))

    def judge(numbers: Numbers) -> Finding:
        places = {name: inner for name, inner in numbers["places"].items() if all(key in inner for key in keys)}
        return check({"places": places}) if places else Finding(OPEN, "no run of this scale has all of these methods")

    return judge


def _raises(text: str, better: str, worse: str) -> list[Claim]:
    """Two claims: that one method beats another one on clean images, and under AutoAttack."""
    words = {"clean": "clean", "robust": "autoattack"}
    return [Claim(text.format(word), _wherever((better, worse), kinds=(kind,))) for word, kind in words.items()]


def _row(recipe: str, *pairs: tuple[str, str]) -> Check:
    """That methods beat others in the run of one row of the paper's table."""
    check = everyone(*(_beats(*pair) for pair in pairs))

    def judge(numbers: Numbers) -> Finding:
        inner = numbers["places"].get(recipe)
        return (
            Finding(OPEN, "this row's data and network are not part of this scale") if inner is None else check(inner)
        )

    return judge


def _runs(plan: "Plan") -> Products:
    return dict(plan.runs)


def _with_others(plan: "Plan") -> Products:
    """The runs on the first one's data set, and what was run beside it."""
    data = next(iter(plan.runs.values())).config.data
    runs = {name: run for name, run in plan.runs.items() if run.config.data == data}
    return {**runs, **{f"others, {name}": other for name, other in plan.others.items()}}


def _accuracies(made: Mapping[str, Made]) -> Outcome:
    """Each run's table; the methods of a run and of what was run beside it are compared with each other."""
    runs = {name: one for name, one in made.items() if not name.startswith("others, ")}
    beside = {name: [made[role]] if (role := f"others, {name}") in made else [] for name in runs}
    return Outcome(
        tables=[
            Table(f"Recipe {name.removeprefix('others, ')}: accuracy, %", _rows(one), name)
            for name, one in made.items()
        ],
        figures=[Figure("clean and AutoAttack accuracy", name, "figures/comparison.png") for name in list(runs)[:1]],
        numbers={"places": {name: _differences(one, *beside[name]) for name, one in runs.items()}},
    )


_ROWS_1 = {
    "CIFAR-10, WRN-28-10, 20M synthetic images": "cifar10-wrn-28-10-20m",
    "CIFAR-10, ViT-B/2, 50M synthetic images": "cifar10-vit-b2-50m",
    "CIFAR-100, WRN-28-10": "cifar100-wrn-28-10-1m",
    "CIFAR-100, ViT-B/2": "cifar100-vit-b2-1m",
    "ImageNet, ConvNeXt-B": "imagenet-convnext-b",
    "ImageNet, ViT-B/16": "imagenet-vit-b16",
}
_ONE_SEED = "One seed; five seeds of four methods are `uv run apps/sweep.py --recipe seeds`."
TABLE_1 = Item(
    key="dra/table-1",
    paper="DRA",
    title="DM-AT with and without diffusion representation alignment, three data sets",
    products=_runs,
    look=_accuracies,
    claims=(
        *_raises("DRA raises the {} accuracy of DM-AT.", "dm-at+dra", "dm-at"),
        Claim(
            "Adversarial training makes the classifier robust at all: the attack breaks standard training.",
            lambda numbers: _breaks_standard(numbers),
        ),
        *(
            Claim(f"{row}: DRA raises clean and robust accuracy.", _row(recipe, ("dm-at+dra", "dm-at")))
            for row, recipe in _ROWS_1.items()
        ),
    ),
    printed=("dra-table-1",),
    remark="The images of a small scale stand in for CIFAR-10, CIFAR-100 and ImageNet, with one small wide ResNet; the "
    "rows themselves are at the scale `paper`. " + _ONE_SEED,
)
TABLE_2 = Item(
    key="dra/table-2",
    paper="DRA",
    title="Amounts of synthetic data, and other methods (CIFAR-10)",
    products=_with_others,
    look=_accuracies,
    claims=(
        *_raises("Without synthetic images DRA raises the {} accuracy.", "at+dra", "at"),
        *_raises("With synthetic images DRA raises the {} accuracy.", "dm-at+dra", "dm-at"),
        *_raises("Synthetic images raise the {} accuracy.", "dm-at", "at"),
        Claim("Both together are best.", _wherever(("dm-at+dra", "at"), ("dm-at+dra", "at+dra"))),
        Claim("AT+DRA beats AT+ADR and AT+IKL.", _wherever(("at+dra", "at+adr"), ("at+dra", "at+ikl"))),
        Claim("DM-AT+DRA beats DM-AT+IKL.", _wherever(("dm-at+dra", "dm-at+ikl"))),
        *(
            Claim(f"{row}: {text}", _row(recipe, *pairs))
            for row, recipe, text, pairs in (
                (
                    "WRN-34-10, no synthetic images",
                    "cifar10-wrn-34-10",
                    "AT+DRA beats AT, AT+ADR and AT+IKL.",
                    (("at+dra", "at"), ("at+dra", "at+adr"), ("at+dra", "at+ikl")),
                ),
                (
                    "WRN-28-10, 1M synthetic images",
                    "cifar10-wrn-28-10-1m",
                    "DM-AT+DRA beats DM-AT.",
                    (("dm-at+dra", "dm-at"),),
                ),
                (
                    "WRN-28-10, 20M synthetic images",
                    "cifar10-wrn-28-10-20m",
                    "DM-AT+DRA beats DM-AT and DM-AT+IKL.",
                    (("dm-at+dra", "dm-at"), ("dm-at+dra", "dm-at+ikl")),
                ),
                (
                    "ViT-B/2, 20M synthetic images",
                    "cifar10-vit-b2-20m",
                    "DM-AT+DRA beats DM-AT.",
                    (("dm-at+dra", "dm-at"),),
                ),
            )
        ),
    ),
    printed=("dra-table-2",),
    contradictions=(
        "The rows of ADR and IKL without synthetic images come from their own papers with other optimisers; DM-AT's "
        "with ViT-B/2 and 20M images has 92.27 clean, below DM-AT's 92.44 with a wide ResNet.",
    ),
    remark="One amount of synthetic images and one network at this scale; ADR and IKL share everything else with the "
    "other methods and were run beside them, with the constants of their own papers, which are for longer training. "
    + _ONE_SEED,
)


def _breaks_standard(numbers: Numbers) -> Finding:
    """Whether DM-AT beats standard training under AutoAttack, in every run that has both."""
    key = "dm-at>standard, autoattack"
    places = {name: inner for name, inner in numbers["places"].items() if key in inner}
    if not places:
        return Finding(OPEN, "no run of this scale has standard training")
    return everywhere(larger(key, "DM-AT minus standard training, AutoAttack"))({"places": places})


TABLES = (TABLE_1, TABLE_2)
