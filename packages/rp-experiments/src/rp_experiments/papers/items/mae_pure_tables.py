"""Tables 1 to 4 and 11 of the MAE-Pure paper: purifiers compared, with each other and with adversarial training."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Artifact, Built
from rp_experiments.papers.claims import Check, everyone, larger, rule
from rp_experiments.papers.item import Figure, Measured, Products, Table
from rp_experiments.papers.items.looks import (
    SYSTEMS,
    WORST,
    attack_rows,
    ball_differences,
    by_data,
    comparison_differences,
    comparison_rows,
    first,
    gap,
    item,
    methods,
    on_data,
    pairs,
    per_query,
    radii,
    title_of,
)
from rp_experiments.papers.settings import PURIFIERS
from rp_experiments.results import limits
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan


@rule
def beats(ball: str, better: str, *worse: str) -> Check:
    """That one system keeps more images than each of others under the worst case in a ball; "" is the comparison's."""
    prefix, norm = f"{ball}: " if ball else "", (ball or "linf").capitalize()
    words = f"{title_of(better)} minus {{}}, worst case in {norm}"
    return everyone(*(larger(f"{prefix}{better}>{other}", words.format(title_of(other))) for other in worse))


def _on(*data: str) -> Callable[["Plan"], Products]:
    """A comparison, its attacks in other norms and its pilots on these data sets, where the scale has them."""

    def products(plan: "Plan") -> Products:
        names = [name for name in data if name in plan.comparisons] if data else [next(iter(plan.comparisons))]
        return {
            role if len(data) <= 1 else f"{role}, {name}": one
            for name in names
            for role, one in {
                "comparison": plan.comparisons[name],
                "norms": plan.norms[name],
                **{f"pilot {key.removesuffix(f', {name}')}": one for key, one in _pilots(plan, name)},
            }.items()
        }

    return products


def _pilots(plan: "Plan", data: str) -> list[tuple[str, Artifact]]:
    return [(key, one) for key, one in plan.pilots.items() if key.endswith(f", {data}")]


@item("mae-pure/table-1", products=_on())
@item("mae-pure/table-4", products=_on("imagenet"))
def compared(made: Mapping[str, Built]) -> Measured:
    """Accuracies in Linf and, as soon as they are there, in L2."""
    comparison, norms = made["comparison"], made.get("norms")
    columns = {"clean": "clean", "transfer": "transfer", "pgd-exact": "PGD exact", "worst": WORST}
    tables = [Table("Linf: accuracy of one query, %", comparison_rows(comparison, columns), "comparison")]
    if norms is None:
        numbers = pairs({}, SYSTEMS, "l2: ")
    else:
        in_l2 = attack_rows(norms, {"PGD L2": ("l2", "pgd-l2"), WORST: ("l2", "worst")})
        tables.append(Table(f"Radius {radii(norms)}: accuracy of one query in L2, %", in_l2, "norms"))
        numbers = ball_differences(norms, "l2")
    picture = f"figures/purifiers-{comparison.artifact.config.data}.png"
    pilots = [role for role in made if role.startswith("pilot ")]
    return Measured(
        tables=[*tables, *(Table(_tried(made[role]), _shares(made[role]), role) for role in pilots)],
        figures=[Figure("clean, under transfer and in the worst case", "comparison", picture)],
        numbers={**comparison_differences(comparison), **numbers},
    )


item("mae-pure/table-2", products=_on("cifar100", "svhn"))(by_data(compared))


def _tried(made: Built) -> str:
    """The title of a pilot's table."""
    setting, chosen = (made.read()[key] for key in ("setting", "chosen"))
    best = ", ".join(f"{name} {value:g}" for name, value in chosen.items())
    of = f"{setting['images']} validation images, after {setting['steps']} steps on {setting['training images']}"
    return f"Values of fine-tuning, accuracy on {of}, %; taken: {best}"


def _shares(made: Built) -> list[Row]:
    """A pilot's rows, accuracies in percent."""
    accuracies = ("clean", "worst", "transfer", "bpda")
    return [
        {name: 100 * value if name in accuracies else value for name, value in row.items()}
        for row in made.read()["rows"]
    ]


def _trained(plan: "Plan") -> Mapping[str, Artifact]:
    """By data set, the first run that trains on synthetic images."""
    found: dict[str, Artifact] = {}
    for run in plan.runs.values():
        if "dm-at" in run.config.method:
            found.setdefault(run.config.data, run)
    return {**plan.adversarial, **found}


def _with_rivals(plan: "Plan") -> Products:
    """Purifiers, the run of DM-AT, and published classifiers, by data set."""
    return on_data({"comparison": plan.comparisons, "run": _trained(plan)}, "cifar100", "svhn") | dict(plan.rivals)


@item("mae-pure/table-3", products=_with_rivals)
@by_data
def beside_adversarial_training(made: Mapping[str, Built]) -> Measured:
    """Purifiers and adversarial training under AutoAttack."""
    comparison, trained = made["comparison"], methods(made["run"])
    columns = {"clean": "clean", "autoattack-rand": "AutoAttack", "worst": WORST}
    rows: list[Row] = [
        {"system": f"adversarial training, {name}", "clean": row["clean"], "AutoAttack": row["autoattack"]}
        for name, row in trained.items()
    ]
    rivals: list[tuple[str, Row]] = [
        (name, {"system": name, **_published(made[name])}) for name in made if name not in ("comparison", "run")
    ]
    best = trained.get("dm-at", trained.get("at", {}))
    numbers: dict[str, Any] = {}
    for row in PURIFIERS:
        for column in ("autoattack-rand", "worst"):
            found = per_query(comparison.read()["rows"], row, column)
            numbers[f"{row}, {column}"] = gap(found, best.get("autoattack"))
    purified = "Purifiers: AutoAttack's version for random defences, and the worst case, %"
    return Measured(
        tables=[
            Table(purified, comparison_rows(comparison, columns, "system"), "comparison"),
            Table("Adversarial training on the same data set, AutoAttack standard, %", rows, "run"),
            *(
                Table("A published classifier, AutoAttack standard on the same images, %", [row], n)
                for n, row in rivals
            ),
        ],
        numbers=numbers,
    )


def _published(made: Built) -> Row:
    """A classifier's accuracies from `evaluate.py`."""
    rows = {row["name"]: row for row in made.read()["table"]}
    return {"clean": limits(rows["clean"]), "AutoAttack": limits(rows["WORST CASE"])}


@item("mae-pure/table-11", products=lambda plan: {"comparison": first(plan.comparisons)})
def bpda(made: Mapping[str, Built]) -> Measured:
    """BPDA beside the other attacks."""
    comparison = made["comparison"]
    columns = {"clean": "clean", "bpda": "BPDA", "pgd-exact": "PGD exact", "worst": WORST}
    rows, numbers = comparison.read()["rows"], dict[str, Any]()
    for row in PURIFIERS:
        identity, exact, worst = (per_query(rows, row, column) for column in ("bpda", "pgd-exact", "worst"))
        numbers[f"{row}, bpda minus 1.5 exact"] = gap(identity, exact, 1.5) if worst else None
        numbers[f"{row}, bpda minus worst"] = gap(identity, worst) if exact else None
        numbers |= {
            f"{row}>{other}, bpda": gap(identity, per_query(rows, other, "bpda")) for other in PURIFIERS if other != row
        }
    table = Table("BPDA beside the other attacks, %", comparison_rows(comparison, columns), "comparison")
    return Measured(tables=[table], numbers=numbers)
