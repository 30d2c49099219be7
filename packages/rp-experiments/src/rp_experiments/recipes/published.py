"""The papers' figures that the tables of the apps stand beside, from `published.toml`; does not import torch."""

from typing import NamedTuple

from rp_experiments.recipes.table import read


class PaperRow(NamedTuple):
    """One result of the DRA paper's Tables 1 and 2: accuracies in percent."""

    recipe: str  # of `train_dra.py`; "" where there is none
    method: str  # of the recipe, or the paper's name of what is not here
    clean: float
    autoattack: float
    source: str


class PaperColumn(NamedTuple):
    """One column of the MAE-Pure paper's tables: accuracies in percent."""

    key: str
    table: str
    title: str
    setting: str
    figures: dict[str, float]  # by row


_TABLES = read("published")
DRA = tuple(PaperRow(*row) for row in _TABLES["dra"])
RIVALS = tuple(PaperRow(*row) for row in _TABLES["rivals"])
PURIFIERS = tuple(PaperColumn(**column) for column in _TABLES["purifiers"])
CLAIMS: tuple[tuple[str, str], ...] = _TABLES["claims"]


def published(recipe: str, method: str) -> PaperRow | None:
    """The DRA paper's row for a recipe and a method, or a rival's own, if there is one."""
    return next((row for row in (*DRA, *RIVALS) if (row.recipe, row.method) == (recipe, method)), None)
