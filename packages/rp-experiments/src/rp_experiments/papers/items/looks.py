"""How items look at finished products, and what several of them read there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Artifact, Built
from rp_experiments.papers.item import Look, Made, Measured, NotMade, Products
from rp_experiments.papers.settings import PURIFIERS
from rp_experiments.recipes.compare_purifiers import TITLES, title
from rp_experiments.results import Limits, curve, limits
from rp_experiments.statistics import all_pairs, separate
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

WORST = "worst case of each image"
SYSTEMS = ("none", *PURIFIERS)
LOOKS: dict[str, tuple[Callable[["Plan"], Products], Look]] = {}  # by the item's key


def item(key: str, *fields: str, products: Callable[["Plan"], Products] | None = None) -> Callable[[Look], Look]:
    """Let a function be an item's look at the plan's products of these fields, or at those that `products` chooses."""

    def add(look: Look) -> Look:
        LOOKS[key] = products or (lambda plan: {name: getattr(plan, name) for name in fields}), look
        return look

    return add


def first(products: Mapping[str, Artifact]) -> Artifact:
    """The product of the first data set, or recipe."""
    return next(iter(products.values()))


def views_of(data: str = "") -> Callable[["Plan"], Products]:
    """What the networks look like on the data set that the paper takes, or on the scale's first one."""
    return lambda plan: {"views": plan.views.get(data, first(plan.views))}


def on_data(kinds: Mapping[str, Mapping[str, Artifact]], *data: str) -> dict[str, Artifact]:
    """Products of several kinds, by role, on the scale's first data set and on the named ones: `comparison, svhn`.

    A data set that one of them lacks is left out.
    """
    here = list(next(iter(kinds.values())))
    chosen = [name for name in here if name in (here[0], *data) and all(name in kind for kind in kinds.values())]
    return {f"{role}, {name}": kind[name] for name in chosen for role, kind in kinds.items()}


def by_data(look: Look) -> Look:
    """A look at each data set in turn, with roles as `on_data` names them; its numbers lie under `places`.

    A data set of which something needed is still to come has None there; NotMade if that is so for all.
    """

    def each(made: Mapping[str, Built]) -> Measured:
        found: dict[str, Measured | None] = {}
        for data, products in _parts(made).items():
            try:
                found[data] = look(products)
            except NotMade:
                found[data] = None
        there = {data: one for data, one in found.items() if one is not None}
        if not there:
            raise NotMade(", ".join(found))
        title = "{}, {}" if len(found) > 1 else "{1}"
        return Measured(
            tables=[
                table._replace(title=title.format(data, table.title), product=f"{table.product}, {data}")
                for data, one in there.items()
                for table in one.tables
            ],
            figures=[
                figure._replace(product=f"{figure.product}, {data}")
                for data, one in there.items()
                for figure in one.figures
            ],
            numbers={"places": {data: one and one.numbers for data, one in found.items()}},
        )

    return each


def _parts(made: Mapping[str, Built]) -> dict[str, Made]:
    """By data set its products, in the order of the roles."""
    parts: dict[str, Made] = {}
    for role in roles(made):
        kind, _, data = role.rpartition(", ")
        part = parts.setdefault(data, Made({}, ()))
        part.roles += (kind,)
        if role in made:
            part[kind] = made[role]
    return parts


def roles(made: Mapping[str, Built]) -> tuple[str, ...]:
    """The roles of an item's products, of those that are still to come too, in the plan's order."""
    return made.roles if isinstance(made, Made) else tuple(made)


def pairs(
    rows: Mapping[str, Sequence[float]], systems: Iterable[str], prefix: str = "", suffix: str = ""
) -> dict[str, Limits | None]:
    """First minus second, image by image, for all pairs: `rmae_pure>mae_pure`; None for a system that has no row."""
    found, names = all_pairs(rows), list(dict.fromkeys([*rows, *systems]))
    both = [(one, other) for one in names for other in names if one != other]
    return {f"{prefix}{one}>{other}{suffix}": found.get(f"{one}>{other}") for one, other in both}


def gap(first: Limits | None, second: Limits | None, factor: float = 1.0) -> Limits | None:
    """The difference of two accuracies, as if their images were others; None where one of them is missing."""
    return separate(first, second, factor) if first and second else None


def per_query(rows: Mapping[str, Any], row: str, column: str) -> Limits | None:
    """An accuracy of one query from the rows of `compare_purifiers.py`, if they have that row and attack."""
    found = rows.get(row, {}).get("cells", {}).get(column)
    return found and limits(found)


def comparison_differences(made: Built) -> dict[str, Limits | None]:
    """Differences of all rows of `compare_purifiers.py`, under the worst case of each image, and `, clean`."""
    worst, clean = dict[str, list[float]](), dict[str, list[float]]()
    for row in made.read()["rows"]:
        found = made.read(f"results/{row}.json")["per_image"]
        (threat,) = (value for key, value in found.items() if key != "clean")
        worst[row], clean[row] = threat["worst"], found["clean"]
    return pairs(worst, SYSTEMS) | pairs(clean, SYSTEMS, suffix=", clean")


def comparison_rows(made: Built, columns: Mapping[str, str], name: str = "purifier") -> list[Row]:
    """Rows of the paper's kind with chosen columns of the comparison."""
    rows = made.read()["rows"]
    return [
        {name: title(row), **{heading: per_query(rows, row, column) for column, heading in columns.items()}}
        for row in rows
    ]


def attack_rows(made: Built, cells: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Rows of an attack table; `cells` maps a heading to ball and attack ("worst" for the worst case)."""
    rows: list[Row] = []
    for name, row in made.read()["rows"].items():
        line: dict[str, Any] = {"purifier": title_of(name), "clean": limits(row["clean"])}
        for heading, (ball, attack) in cells.items():
            found = {**row["balls"].get(ball, {"attacks": {}})}
            cell = found.get("worst") if attack == "worst" else found["attacks"].get(attack)
            line[heading] = cell and limits(cell)
        rows.append(line)
    return rows


def radii(made: Built) -> str:
    """The radii of an attack table's balls: `L2 0.69, L1 5.72`."""
    found = {ball: of["eps"] for row in made.read()["rows"].values() for ball, of in row["balls"].items()}
    return ", ".join(f"{ball.capitalize()} {eps:.3g}" for ball, eps in found.items())


def ball_differences(made: Built, ball: str, systems: Iterable[str] = SYSTEMS) -> dict[str, Limits | None]:
    """Differences of all rows of an attack table under the worst case of each image in one ball."""
    rows = {name: row["balls"][ball]["right"] for name, row in made.read()["rows"].items() if ball in row["balls"]}
    return pairs(rows, systems, f"{ball}: ")


def title_of(name: str) -> str:
    """A case's row in words, with what it changes or the classifier behind it."""
    system, comma, classifier = name.partition(",")
    row, space, changes = system.partition(" ")
    return TITLES[row] + space + changes + comma + classifier


def changed_one(rows: Mapping[str, Any]) -> list[tuple[str, float, Mapping[str, Any]]]:
    """Setting, value and case of every case in which one setting of MAE-Pure is changed."""
    cases = ((name.partition(" "), case) for name, case in rows.items())
    found = ((change.partition("="), case) for (row, _, change), case in cases if row == "mae_pure" and change)
    return [(setting.replace("_", " "), float(value), case) for (setting, _, value), case in found]


def steps_of(made: Built, row: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The cases of a sensitivity table that change the number of steps alone, in their order."""
    prefix = f"{row} steps="
    rows = made.read()["rows"]
    return sorted((int(name.removeprefix(prefix)), found) for name, found in rows.items() if name.startswith(prefix))


def methods(made: Built) -> dict[str, dict[str, Limits]]:
    """By method of a run, its clean accuracy and that under AutoAttack."""
    found = made.read()["methods"]
    return {name: {kind: limits(row[kind]) for kind in ("clean", "autoattack")} for name, row in found.items()}


def curves(made: Built) -> dict[str, list[dict[str, float]]]:
    """By classifier of `probe.py`, its accuracies over the radius."""
    return {name: curve(found) for name, found in made.read()["curves"].items()}
