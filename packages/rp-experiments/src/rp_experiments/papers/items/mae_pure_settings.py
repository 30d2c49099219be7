"""Figure 5 and Tables 10 and 12 of the MAE-Pure paper: the purifiers' settings, and what they cost."""

from collections.abc import Mapping
from typing import Any

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import FAILED, HELD, OPEN, Check, Verdict, decided, points, rule, sign_of
from rp_experiments.papers.item import Measured, Table
from rp_experiments.papers.items.looks import WORST, by_data, changed_one, item, on_data, steps_of
from rp_experiments.papers.settings import PURIFIERS
from rp_experiments.recipes.compare_purifiers import TITLES
from rp_experiments.results import Limits, limits
from rp_experiments.statistics import paired, separate
from rp_experiments.tables import Row

_ATTACKS = {"transfer": "transfer", "bpda": "BPDA", "pgd-exact": "PGD exact"}


@item("mae-pure/fig-5", "sensitivity")
def one_by_one(made: Mapping[str, Built]) -> Measured:
    """Accuracy over MAE-Pure's settings, from the table of attacks on each of them."""
    table = made["sensitivity"]
    rows: list[Row] = []
    for setting, value, case in changed_one(table.read()["rows"]):
        ball = case["balls"]["linf"]
        cells = {title: ball["attacks"][name] for name, title in _ATTACKS.items() if name in ball["attacks"]}
        cells = {"clean": case["clean"], **cells, "worst of the two": ball["worst"]}
        shown = {title: limits(cell) for title, cell in cells.items()}
        rows.append({"setting": setting, "value": value, **shown})
    title = "MAE-Pure's settings, one changed at a time, %"
    return Measured(tables=[Table(title, rows, "sensitivity")], numbers=_from_no_step_on(table))


def _from_no_step_on(table: Built) -> dict[str, Any]:
    """The largest number of steps against none."""
    steps = steps_of(table, "mae_pure")
    names = ["worst, most steps minus none", "clean, none minus most steps"]
    names += ["transfer, by steps", "transfer, most steps minus none"]
    if not steps or steps[0][0] != 0:
        return dict.fromkeys(names)
    none, most = steps[0][1], steps[-1][1]
    transfer = [limits(case["balls"]["linf"]["attacks"]["transfer"]) for _, case in steps]
    worst = paired(most["balls"]["linf"]["right"], none["balls"]["linf"]["right"])
    clean = paired(none["clean_right"], most["clean_right"])
    found = worst, clean, [cell["estimate"] for cell in transfer], separate(transfer[-1], transfer[0])
    return dict(zip(names, found, strict=True))


@rule
def more_steps_help() -> Check:
    """That accuracy under transfer rises from no step to the most."""

    def by(values: list[float], gap: Limits) -> tuple[Verdict, str]:
        shown = ", ".join(f"{100 * value:.0f}%" for value in values)
        return sign_of(gap), f"{shown}; most minus none {points(gap)}"

    names = ("transfer, by steps", "transfer, most steps minus none")
    return decided("accuracy under transfer, by number of steps", *names, by=by)


@item("mae-pure/table-10", products=lambda plan: on_data({"timing": plan.timings}, "imagenet"))
@by_data
def seconds(made: Mapping[str, Built]) -> Measured:
    """Time to purify a batch."""
    result = made["timing"].read()
    rows: list[Row] = [
        {"purifier": TITLES[name], **{key: row[key] for key in ("seconds", "fastest", "slowest", "steps")}}
        for name, row in result["rows"].items()
    ]
    title = f"Seconds for {result['setting']['images']} images on {result['device']}"
    repeats = {"repeats": made["timing"].artifact.config.repeats}
    return Measured(
        tables=[Table(title, rows, "timing")], numbers={**dict.fromkeys(PURIFIERS), **result["rows"], **repeats}
    )


@rule
def faster(first: str, second: str, *, with_fewer_steps: bool = False) -> Check:
    """That one purifier's slowest repeat takes less time than another one's fastest, perhaps thanks to fewer steps."""

    def by(one: Mapping[str, float], other: Mapping[str, float], repeats: int) -> tuple[Verdict, str]:
        text = "; ".join(
            f"{TITLES[name]} {row['fastest']:.3g} to {row['slowest']:.3g} s in {row['steps']} steps"
            for name, row in ((first, one), (second, other))
        )
        if repeats < 3:
            return OPEN, f"{text}; fewer than three repeats"
        if with_fewer_steps and one["steps"] == other["steps"]:
            return OPEN, f"{text}; as many steps here"
        lower, higher = one["slowest"] < other["fastest"], one["fastest"] > other["slowest"]
        return HELD if lower else FAILED if higher else OPEN, text

    return decided("time", first, second, "repeats", by=by)


@item("mae-pure/table-12", "sensitivity")
def numbers_of_steps(made: Mapping[str, Built]) -> Measured:
    """Accuracy over the number of steps."""
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for row in ("maskdit_pure", "rmaskdit_pure"):
        cases = steps_of(made["sensitivity"], row)
        for steps, case in cases:
            cells = {"clean": limits(case["clean"]), WORST: limits(case["balls"]["linf"]["worst"])}
            rows.append({"purifier": TITLES[row], "steps": steps, **cells})
        right = [case["balls"]["linf"]["right"] for _, case in cases]
        most, second = len(right) - 1, len(right) - 2
        for name, one, other, least in (
            ("most minus fewest", most, 0, 2),
            ("second most minus most", second, most, 3),
            ("second most minus fewest", second, 0, 3),
        ):
            numbers[f"{row}, {name}"] = paired(right[one], right[other]) if len(right) >= least else None
    found = next(iter(made["sensitivity"].read()["rows"].values()))["balls"]["linf"]["attacks"]
    attacks = " and ".join(title for name, title in _ATTACKS.items() if name in found)
    title = f"Number of steps: clean, and the worst of {attacks}, %"
    return Measured(tables=[Table(title, rows, "sensitivity")], numbers=numbers)
