"""Recipes of `sweep.py`: grids over the settings of `train_dra.py`; importing this does not import torch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

from rp_dra.settings import Method
from rp_models.settings import require

from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES

Point = dict[str, str]  # settings of `train_dra.py` by name, with one value each, as on its command line


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Everything that determines a sweep's numbers."""

    base: str = "digits"  # recipe of train_dra.py that everything else starts from
    method: tuple[Method, ...] = ("dm-at", "dm-at+dra")  # trained at every point; the first one is compared with
    seeds: tuple[int, ...] = (0,)  # every point is trained with each
    grid: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.base in DRA_RECIPES, f"base must be a recipe of train_dra.py, got {self.base!r}")
        require(len(self.seeds) > 0, "seeds must hold at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds names one twice: {self.seeds}")
        for name, values in self.grid.items():
            require(len(values) > 0, f"--{name} needs at least one value")
            require(len(set(values)) == len(values), f"--{name} names a value twice: {' '.join(values)}")

    def points(self) -> Iterator[Point]:
        """All combinations of the grid's values, the last setting running fastest."""
        for values in product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def name_of(point: Point) -> str:
    """A point's name, fit for a folder."""
    return ",".join(f"{setting}={value.replace('/', '_')}" for setting, value in point.items()) or "base"


def fig8() -> Sweep:
    """The weight of the alignment term, as in Fig. 8 of the DRA paper (there WRN-28-10 on CIFAR-100); 0 is DM-AT."""
    return Sweep(method=("dm-at+dra",), grid={"alignment.weight": ("0", "0.3", "0.6", "1.2", "2.4")})


def seeds() -> Sweep:
    """Four methods with five seeds each: does alignment help, with and without synthetic images?"""
    return Sweep(method=("at", "at+dra", "dm-at", "dm-at+dra"), seeds=(0, 1, 2, 3, 4))


def smoke() -> Sweep:
    """Two points in seconds, for tests."""
    return Sweep(base="smoke", method=("dm-at+dra",), grid={"alignment.weight": ("0", "1.2")})


SWEEPS: dict[str, Callable[[], Sweep]] = {"fig8": fig8, "seeds": seeds, "smoke": smoke}
