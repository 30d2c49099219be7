"""Reading the tables of attacks on purifiers."""

from collections.abc import Callable, Mapping
from typing import Any

from rp_experiments.artifacts import Made, Product
from rp_experiments.papers.claims import Limits
from rp_experiments.papers.intervals import all_pairs
from rp_experiments.papers.item import Outcome, Row
from rp_experiments.recipes.compare_purifiers import TITLES
from rp_experiments.results import limits

WORST = "worst case of each image"


def first(products: Mapping[str, Product]) -> Product:
    """The product of the first data set, or recipe."""
    return next(iter(products.values()))


def on_data(kinds: Mapping[str, Mapping[str, Product]], *data: str) -> dict[str, Product]:
    """Products of several kinds on the scale's first data set and on the named ones: `comparison, svhn`.

    Args:
        kinds: by role, products by data set; a data set that one of them lacks is left out.
        data: the further data sets of a table of the paper.
    """
    here = list(next(iter(kinds.values())))
    chosen = [name for name in here if name in (here[0], *data) and all(name in kind for kind in kinds.values())]
    return {f"{role}, {name}": kind[name] for name in chosen for role, kind in kinds.items()}


def by_data(made: Mapping[str, Made], look: Callable[[Mapping[str, Made]], Outcome]) -> Outcome:
    """The outcome of each data set in turn; its numbers lie under `places`.

    Args:
        made: products whose roles end in the data set, as `on_data` names them.
        look: what is found on one data set, from the products by their roles without it.
    """
    parts: dict[str, dict[str, Made]] = {}
    for role, one in made.items():
        kind, _, data = role.rpartition(", ")
        parts.setdefault(data, {})[kind] = one
    outcomes = {data: look(products) for data, products in parts.items()}
    several = len(outcomes) > 1
    return Outcome(
        tables=[
            table._replace(
                title=f"{data}, {table.title}" if several else table.title, product=f"{table.product}, {data}"
            )
            for data, outcome in outcomes.items()
            for table in outcome.tables
        ],
        figures=[
            figure._replace(product=f"{figure.product}, {data}")
            for data, outcome in outcomes.items()
            for figure in outcome.figures
        ],
        numbers={"places": {data: outcome.numbers for data, outcome in outcomes.items()}},
    )


def per_query(rows: Mapping[str, Any], row: str, column: str) -> Limits | None:
    """An accuracy of one query from the rows of `compare_purifiers.py`, if they have that row and attack."""
    cell = rows.get(row, {}).get("cells", {}).get(column)
    return None if cell is None else limits(cell)


def right_of_each_image(made: Made, row: str) -> Mapping[str, list[float]]:
    """Share of right passes of each image of `compare_purifiers.py`, clean and under its worst attack."""
    found = made.read(f"results/{row}.json")["per_image"]
    (threat,) = (value for key, value in found.items() if key != "clean")
    return {"clean": list(found["clean"]), "worst": list(threat["worst"])}


def comparison_differences(made: Made) -> dict[str, Limits]:
    """First minus second, image by image, for all pairs of rows: `rmae_pure>mae_pure` under the worst case.

    The same without attack is `rmae_pure>mae_pure, clean`.
    """
    rows = {row: right_of_each_image(made, row) for row in made.read()["rows"]}
    worst = all_pairs({row: right["worst"] for row, right in rows.items()})
    return worst | all_pairs({row: right["clean"] for row, right in rows.items()}, ", clean")


def comparison_rows(made: Made, columns: Mapping[str, str]) -> list[Row]:
    """Rows of the paper's kind with chosen columns of the comparison."""
    rows = made.read()["rows"]
    return [
        {"purifier": TITLES[row], **{title: per_query(rows, row, column) for column, title in columns.items()}}
        for row in rows
    ]


def attack_rows(made: Made, cells: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Rows of an attack table; `cells` maps a heading to ball and attack ("worst" for the worst case)."""
    rows: list[Row] = []
    for name, row in made.read()["rows"].items():
        line: dict[str, Any] = {"purifier": title_of(name), "clean": row["clean"]}
        for title, (ball, attack) in cells.items():
            found = row["balls"].get(ball)
            line[title] = found and (found["worst"] if attack == "worst" else found["attacks"].get(attack))
        rows.append(line)
    return rows


def radii(made: Made) -> str:
    """The radii of an attack table's balls: `L2 0.69, L1 5.72`."""
    found = {ball: of["eps"] for row in made.read()["rows"].values() for ball, of in row["balls"].items()}
    return ", ".join(f"{ball.capitalize()} {eps:.3g}" for ball, eps in found.items())


def ball_differences(made: Made, ball: str) -> dict[str, Limits]:
    """First minus second under the worst case in one ball, for all pairs of an attack table's rows."""
    rows = {name: row["balls"][ball]["right"] for name, row in made.read()["rows"].items() if ball in row["balls"]}
    return {f"{ball}: {pair}": difference for pair, difference in all_pairs(rows).items()}


def title_of(name: str) -> str:
    """A case's row in words, with what it changes or the classifier behind it."""
    system, comma, classifier = name.partition(",")
    row, space, changes = system.partition(" ")
    return TITLES[row] + space + changes + comma + classifier


def steps_of(made: Made, row: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The cases of a sensitivity table that change the number of steps alone, in their order."""
    prefix = f"{row} steps="
    rows = made.read()["rows"]
    return sorted((int(name.removeprefix(prefix)), found) for name, found in rows.items() if name.startswith(prefix))
