"""Tables 5 to 9 of the MAE-Pure paper: other classifiers, other norms, other attackers."""

from collections.abc import Mapping
from typing import Any

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Judgement, Numbers, points, rule
from rp_experiments.papers.item import Measured, Table
from rp_experiments.papers.items.looks import (
    SYSTEMS,
    WORST,
    attack_rows,
    ball_differences,
    by_data,
    first,
    gap,
    item,
    on_data,
    radii,
)
from rp_experiments.recipes.compare_purifiers import TITLES
from rp_experiments.results import Limits, limits
from rp_experiments.statistics import paired


@item("mae-pure/table-5", "classifiers")
def other_classifiers(made: Mapping[str, Built]) -> Measured:
    """Purifiers before classifiers that they were not tuned for."""
    table = made["classifiers"]
    cells = {f"Linf, {WORST}": ("linf", "worst"), f"L2, {WORST}": ("l2", "worst")}
    systems = [f"{row}, {classifier}" for classifier in ("first", "larger", "other") for row in SYSTEMS]
    title = f"Purifiers before classifiers that they were not tuned for, %; radius {radii(table)}"
    return Measured(
        tables=[Table(title, attack_rows(table, cells), "classifiers")],
        numbers={**ball_differences(table, "linf", systems), **ball_differences(table, "l2", systems)},
    )


item("mae-pure/table-8", products=lambda plan: on_data({"classifiers": plan.before_larger}, "svhn"))(
    by_data(other_classifiers)
)


@item(  # the Linf attacks of the same strength are on the first data set alone
    "mae-pure/table-6",
    products=lambda plan: (
        on_data({"norms": plan.unseen}, "cifar100", "svhn")
        | {f"classifiers, {next(iter(plan.unseen))}": plan.classifiers}
    ),
)
@by_data
def unseen_norms(made: Mapping[str, Built]) -> Measured:
    """Attacks in L1 and L2 on what was tuned against Linf."""
    norms = made["norms"]
    cells = {
        title.format(ball.upper()): (ball, attack.format(ball))
        for ball in ("l1", "l2")
        for title, attack in (("PGD {}", "pgd-{}"), (f"{{}}, {WORST}", "worst"))
    }
    numbers: dict[str, Any] = {**ball_differences(norms, "l1"), **ball_differences(norms, "l2")}
    seen, rows = made["classifiers"].read()["rows"] if "classifiers" in made else {}, norms.read()["rows"]
    for name in (*SYSTEMS, *rows):
        linf = _pgd(seen.get(f"{name}, {_before(norms) or 'first'}"), "linf")
        numbers[f"{name}, l1 minus linf"] = gap(_pgd(rows.get(name), "l1"), linf)
    title = f"Attacks in other norms{_behind(norms)}, %; radius {radii(norms)}"
    return Measured(tables=[Table(title, attack_rows(norms, cells), "norms")], numbers=numbers)


def _before(table: Built) -> str:
    """The name of the classifier in a table of one; "" for the comparison's own."""
    return str(next(iter(table.artifact.config.cases)).classifier)


def _behind(table: Built) -> str:
    """`, classifier wrn-70-16-swish`, where it is not the comparison's own."""
    name = _before(table)
    return f", classifier {table.artifact.config.classifiers[name].standard.network}" if name else ""


def _pgd(row: Mapping[str, Any] | None, ball: str) -> Limits | None:
    """The accuracy of a case under PGD, if there is one."""
    return row and limits(row["balls"][ball]["attacks"][f"pgd-{ball}"])


@rule
def at_least_as_good(row: str) -> Check:
    """L1 minus Linf under PGD, where both were run; `at least as good` fails only if the interval lies below zero."""

    def check(numbers: Numbers) -> Judgement:
        found = {name: inner and inner[f"{row}, l1 minus linf"] for name, inner in numbers["places"].items()}
        gaps = {name: gap for name, gap in found.items() if gap}
        shown = "; ".join(f"{name} {points(gap)}" for name, gap in gaps.items())
        text = f"{TITLES[row]}, PGD, L1 minus Linf: {shown}"
        if not gaps or any(gap["low"] <= 0 <= gap["high"] for gap in gaps.values()):
            return Judgement(OPEN, text)
        return Judgement(HELD if all(gap["low"] > 0 for gap in gaps.values()) else FAILED, text)

    return check


@item("mae-pure/table-7", products=lambda plan: {"norms": first(plan.unseen)})
def attacks_in_l2(made: Mapping[str, Built]) -> Measured:
    """Six attacks in L2."""
    norms = made["norms"]
    names = {"C&W": "cw-l2", "DeepFool": "deepfool-l2", "APGD-CE": "apgd-ce-l2", "APGD-DLR": "apgd-dlr-l2"}
    names |= {"PGD": "pgd-l2", WORST: "worst"}
    rows, numbers = norms.read()["rows"], dict[str, Any](ball_differences(norms, "l2"))
    for name in (*SYSTEMS, *rows):
        attacks = rows[name]["balls"]["l2"]["attacks"] if name in rows else {}
        both = [limits(attacks[key]) for key in ("cw-l2", "deepfool-l2") if attacks]
        stronger = min(both, key=lambda cell: cell["estimate"], default=None)
        numbers[f"{name}, minimum-norm minus PGD"] = gap(stronger, _pgd(rows.get(name), "l2"))
    cells = attack_rows(norms, {title: ("l2", attack) for title, attack in names.items()})
    title = f"L2 attacks on the whole system{_behind(norms)}, %; radius {radii(norms)}"
    return Measured(tables=[Table(title, cells, "norms")], numbers=numbers)


@item("mae-pure/table-9", products=lambda plan: on_data({"black box": plan.black_box}, "svhn"))
@by_data
def without_gradients(made: Mapping[str, Built]) -> Measured:
    """Square, FAB transferred, and RayS."""
    table = made["black box"]
    names = {"Square": "square", "FAB, transferred": "fab", "RayS": "rays", WORST: "worst"}
    rows, numbers = table.read()["rows"], dict[str, Any](ball_differences(table, "linf"))
    for name in (*SYSTEMS, *rows):
        found = rows.get(name)
        loss = found and paired(found["clean_right"], found["balls"]["linf"]["right"])
        numbers[f"{name}, clean minus black box"] = loss
    cells = attack_rows(table, {title: ("linf", attack) for title, attack in names.items()})
    return Measured(
        tables=[Table(f"Attacks without gradients, %; radius {radii(table)}", cells, "black box")], numbers=numbers
    )


@rule
def close_to_clean(row: str) -> Check:
    """Within five points of the clean accuracy, for the whole interval."""

    def check(numbers: Numbers) -> Judgement:
        loss, text = numbers[f"{row}, clean minus black box"], f"{TITLES[row]}, clean minus worst black-box attack"
        if loss is None:
            return Judgement(OPEN, f"{text}: no number at this scale")
        verdict = HELD if loss["high"] <= 0.05 else FAILED if loss["low"] > 0.05 else OPEN
        return Judgement(verdict, f"{text}: {points(loss)} (rule: at most 5)")

    return check
