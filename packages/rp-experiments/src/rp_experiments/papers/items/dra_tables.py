"""Tables 1 and 2 of the DRA paper: accuracies of its methods."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import OPEN, Check, Judgement, Numbers, everyone, everywhere, in_place, larger, rule
from rp_experiments.papers.item import Figure, Measured, Products, Table
from rp_experiments.papers.items.looks import item, methods, pairs, roles
from rp_experiments.results import Limits
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

NAMES = {"standard": "standard training", "at": "AT", "at+dra": "AT+DRA", "at+adr": "AT+ADR", "at+ikl": "AT+IKL"}
NAMES |= {"dm-at": "DM-AT", "dm-at+dra": "DM-AT+DRA", "dm-at+ikl": "DM-AT+IKL"}
KINDS = {"clean": "clean", "autoattack": "AutoAttack"}


def method_rows(made: Built, first: str, names: Mapping[str, str]) -> list[Row]:
    """A run's methods with their accuracies; `names` maps a method to what it is called in the column `first`."""
    found = methods(made)
    return [
        {first: names[name], **{KINDS[kind]: cell for kind, cell in found[name].items()}}
        for name in found
        if name in names
    ]


def _differences(*runs: Built) -> dict[str, Limits | None]:
    """For all pairs of methods of runs on the same images: `dm-at+dra>dm-at, clean`, and under AutoAttack."""
    right = {method: kinds for run in runs for method, kinds in run.read("images.json").items()}
    return {
        name: gap
        for kind in KINDS
        for name, gap in pairs({n: found[kind] for n, found in right.items()}, NAMES, suffix=f", {kind}").items()
    }


def _with_others(plan: "Plan") -> Products:
    """The runs on the first one's data set, and what was run beside it."""
    data = next(iter(plan.runs.values())).config.data
    runs = {name: run for name, run in plan.runs.items() if run.config.data == data}
    return {**runs, **{f"others, {name}": other for name, other in plan.others.items()}}


@item("dra/table-1", products=lambda plan: dict(plan.runs))
@item("dra/table-2", products=_with_others)
def accuracies(made: Mapping[str, Built]) -> Measured:
    """Each run's table; the methods of a run and of what was run beside it are compared with each other."""
    runs = [name for name in roles(made) if not name.startswith("others, ")]
    found = {name: [made[role] for role in (name, f"others, {name}") if role in made] for name in runs}
    title = "Recipe {}: accuracy, %"
    return Measured(
        tables=[
            Table(title.format(name.removeprefix("others, ")), method_rows(one, "method", NAMES), name)
            for name, one in made.items()
        ],
        figures=[
            Figure("clean and AutoAttack accuracy", name, "figures/comparison.png") for name in runs[:1] if name in made
        ],
        numbers={"places": {name: _differences(*found[name]) if name in made else None for name in runs}},
    )


def _beats(better: str, worse: str, kinds: Sequence[str] = tuple(KINDS)) -> Check:
    """That one method beats another one, on clean images and under AutoAttack."""
    text = f"{NAMES[better]} minus {NAMES[worse]}"
    return everyone(*(larger(f"{better}>{worse}, {kind}", f"{text}, {KINDS[kind]}") for kind in kinds))


@rule
def wherever(*compared: tuple[str, str], kinds: Sequence[str] = tuple(KINDS)) -> Check:
    """That methods beat others, pair by pair, in every run that has them all."""
    check = everywhere(everyone(*(_beats(*pair, kinds) for pair in compared)))  # knows what is not made yet
    names = [f"{better}>{worse}, clean" for better, worse in compared]

    def judge(numbers: Numbers) -> Judgement:
        places = {
            place: inner
            for place, inner in numbers["places"].items()
            if inner is None or all(inner[name] is not None for name in names)
        }
        return check({"places": places}) if places else Judgement(OPEN, "no run of this scale has all of these methods")

    return judge


@rule
def in_run(recipe: str, *compared: tuple[str, str]) -> Check:
    """That methods beat others in the run of one row of the paper's table."""
    check = everyone(*(_beats(*pair) for pair in compared))
    return in_place(recipe, check, "this row's data and network are not part of this scale")
