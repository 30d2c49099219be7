"""The figures of the DRA paper's Tables 1 and 2, row by row, with the recipe and the method that repeat each."""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """One published result.

    Attributes:
        recipe: of `train_dra.py`; "" where there is none.
        method: of the recipe, or the paper's name of what is not here.
        clean: accuracy in %.
        autoattack: accuracy in %.
        source: table and row of the DRA paper; a row whose numbers it cites says from whom.
    """

    recipe: str
    method: str
    clean: float
    autoattack: float
    source: str


PAPER: tuple[PaperRow, ...] = (
    PaperRow("cifar10-wrn-34-10", "at", 84.33, 55.25, "Table 2, row 1"),
    PaperRow("cifar10-wrn-34-10", "at+adr", 86.11, 55.26, "Table 2, row 2, from Wu et al. 2024"),
    PaperRow("cifar10-wrn-34-10", "at+ikl", 84.80, 57.09, "Table 2, row 3, from Cui et al. 2024"),
    PaperRow("cifar10-wrn-34-10", "at+dra", 88.54, 57.29, "Table 2, row 4"),
    PaperRow("cifar10-wrn-28-10-1m", "dm-at", 91.12, 63.35, "Table 2, row 5, from Wang et al. 2023"),
    PaperRow("cifar10-wrn-28-10-1m-1024", "dm-at", 91.43, 63.96, "Table 2, row 6, from Wang et al. 2023"),
    PaperRow("cifar10-wrn-28-10-1m", "dm-at+dra", 92.36, 64.12, "Table 2, row 7"),
    PaperRow("cifar10-wrn-28-10-20m", "dm-at", 92.44, 67.31, "Table 2, row 8, and Table 1, from Wang et al. 2023"),
    PaperRow("cifar10-wrn-28-10-20m", "dm-at+ikl", 92.16, 67.75, "Table 2, row 9, from Cui et al. 2024"),
    PaperRow("cifar10-wrn-28-10-20m", "dm-at+dra", 93.14, 67.83, "Table 2, row 10, and Table 1"),
    PaperRow("cifar10-vit-b2-20m", "dm-at", 92.27, 66.47, "Table 2, row 11"),
    PaperRow("cifar10-vit-b2-20m", "dm-at+dra", 93.36, 67.74, "Table 2, row 12"),
    PaperRow("cifar10-wrn-70-16-50m", "dm-at", 93.25, 70.69, "Table 2, row 13, from Wang et al. 2023"),
    # the robust architecture of Peng et al. 2023 is not among the networks here
    PaperRow("", "dm-at, RaWRN-70-16", 93.27, 71.07, "Table 2, row 14, from Peng et al. 2023"),
    PaperRow("cifar10-vit-b2-50m", "dm-at", 94.35, 71.31, "Table 2, row 15, and Table 1, from Wu et al. 2025"),
    PaperRow("cifar10-vit-b2-50m", "dm-at+dra", 95.22, 71.77, "Table 2, row 16, and Table 1"),
    PaperRow("cifar100-wrn-28-10-1m", "dm-at", 68.34, 35.72, "Table 1"),
    PaperRow("cifar100-wrn-28-10-1m", "dm-at+dra", 69.85, 36.27, "Table 1"),
    PaperRow("cifar100-vit-b2-1m", "dm-at", 68.53, 36.52, "Table 1"),
    PaperRow("cifar100-vit-b2-1m", "dm-at+dra", 69.95, 37.43, "Table 1"),
    PaperRow("imagenet-convnext-b", "dm-at", 74.49, 54.44, "Table 1"),
    PaperRow("imagenet-convnext-b", "dm-at+dra", 76.03, 56.07, "Table 1"),
    PaperRow("imagenet-vit-b16", "dm-at", 74.62, 54.64, "Table 1"),
    PaperRow("imagenet-vit-b16", "dm-at+dra", 76.87, 55.16, "Table 1"),
)


def published(recipe: str, method: str) -> PaperRow | None:
    """The paper's row for a recipe and a method, if it has one."""
    return next((row for row in PAPER if (row.recipe, row.method) == (recipe, method)), None)
