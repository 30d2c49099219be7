"""Reading the tables of attacks on purifiers."""

from collections.abc import Mapping
from typing import Any

from recipes.compare_purifiers import TITLES

from reproductions.claims import Limits
from reproductions.intervals import paired
from reproductions.item import Row
from reproductions.product import Made, Product

WORST = "worst case of each image"


def first(products: Mapping[str, Product]) -> Product:
    """The product of the first data set, or recipe."""
    return next(iter(products.values()))


def per_query(made: Made, row: str, column: str) -> Limits | None:
    """An accuracy of one query of `compare_purifiers.py`, if it has that row and attack."""
    cell = made.read()["rows"].get(row, {}).get("cells", {}).get(column)
    return None if cell is None else cell["per_query"]


def worst_of_each_image(made: Made, row: str) -> list[float]:
    """Share of right passes of each image of `compare_purifiers.py` under its worst attack."""
    found = made.read(f"results/{row}.json")["per_image"]
    (threat,) = (value for key, value in found.items() if key != "clean")
    return list(threat["worst"])


def comparison_differences(made: Made) -> dict[str, Limits]:
    """First minus second under the worst case, image by image, for all pairs of rows: `rmae_pure>mae_pure`."""
    rows = {row: worst_of_each_image(made, row) for row in made.read()["rows"]}
    return {f"{a}>{b}": paired(rows[a], rows[b]) for a in rows for b in rows if a != b}


def comparison_rows(made: Made, columns: Mapping[str, str]) -> list[Row]:
    """Rows of the paper's kind with chosen columns of the comparison."""
    return [
        {"purifier": TITLES[row], **{title: per_query(made, row, column) for column, title in columns.items()}}
        for row in made.read()["rows"]
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


def ball_differences(made: Made, ball: str) -> dict[str, Limits]:
    """First minus second under the worst case in one ball, for all pairs of an attack table's rows."""
    rows = {name: row["balls"][ball]["right"] for name, row in made.read()["rows"].items() if ball in row["balls"]}
    return {f"{ball}: {a}>{b}": paired(rows[a], rows[b]) for a in rows for b in rows if a != b}


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
