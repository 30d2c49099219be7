"""Recipes of `sweep.py`: grids over the settings of `train_dra.py`; importing this does not import torch."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from typing import Annotated, Any, Literal

import tyro
from rp_dra.settings import Method
from rp_models.settings import require

from rp_experiments import cli
from rp_experiments.jobs import slurm_words
from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES
from rp_experiments.recipes.dra import TrainDra
from rp_experiments.recipes.table import read

Point = dict[str, str]  # settings of `train_dra.py` by name, with one value each, as on its command line


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """Everything that determines a sweep's numbers."""

    base: str = "digits"  # recipe of train_dra.py that everything else starts from
    method: tuple[Method, ...] = ("dm-at", "dm-at+dra")  # trained at every point; the first one is compared with
    seeds: tuple[int, ...] = (0,)  # every point is trained with each
    grid: dict[str, tuple[str, ...]] = field(default_factory=dict)
    cases: dict[str, dict[str, str]] = field(default_factory=dict)  # named points beside the grid, each with settings
    against: str = ""  # a second point, by name, that the others are compared with

    def __post_init__(self) -> None:
        require(self.base in DRA_RECIPES, f"base must be a recipe of train_dra.py, got {self.base!r}")
        require(len(self.seeds) > 0, "seeds must hold at least one seed")
        require(len(set(self.seeds)) == len(self.seeds), f"seeds names one twice: {self.seeds}")
        for name, values in self.grid.items():
            require(len(values) > 0, f"--{name} needs at least one value")
            require(len(set(values)) == len(values), f"--{name} names a value twice: {' '.join(values)}")
        names = list(self.points())
        require(
            not self.against or self.against in names,
            f"against must be a point of {', '.join(names)}: {self.against!r}",
        )

    def points(self) -> dict[str, Point]:
        """The cases with all combinations of the grid's values, the last setting running fastest, by name."""
        found = {}
        for case, settings in (self.cases or {"": {}}).items():
            for values in product(*self.grid.values()):
                place = dict(zip(self.grid, values, strict=True))
                name = ",".join(part for part in (case, name_of(place)) if part)
                found[case if case and not place else name] = {**settings, **place}
        return found


def name_of(point: Point) -> str:
    """The name of a point of the grid, fit for a folder."""
    return ",".join(f"{name}={value.replace('/', '_').replace(' ', '+')}" for name, value in point.items()) or "base"


def grid_of(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The settings among the words of a command line, each with its values."""
    grid: dict[str, tuple[str, ...]] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").replace("-", "_")
            if name in grid:
                raise ValueError(f"{word} stands twice on the command line")
            grid[name] = ()
        elif not name:
            raise ValueError(f"{word!r} belongs to no setting; a grid is --SETTING VALUE [VALUE ...]")
        else:
            grid[name] = (*grid[name], word)
    return grid


def configurations(sweep: Sweep) -> dict[int, list[TrainDra]]:
    """For each seed the settings of each point, in the grid's order."""
    return {seed: [configuration(sweep, point, seed) for point in sweep.points().values()] for seed in sweep.seeds}


def configuration(sweep: Sweep, point: Point, seed: int) -> TrainDra:
    """The settings of one run: the base recipe, its point of the grid, methods and seed."""
    words = ["--method", *sweep.method, "--seed", str(seed)]
    for name, value in point.items():
        # "0.05 0.1" is one value of a setting that takes several
        words += [f"--{name.replace('_', '-')}", *shlex.split(value)]
    default = _Run(config=DRA_RECIPES[sweep.base]())
    return tyro.cli(_Run, args=words, default=default, prog="sweep.py").config


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run's settings, by the names that they have in train_dra.py."""

    config: Annotated[TrainDra, tyro.conf.arg(name="")] = field(default_factory=TrainDra)


SWEEPS = {name: partial(Sweep, **values) for name, values in read("sweep").items()}


@dataclass(frozen=True, kw_only=True)
class SweepOptions(cli.SharedOptions):
    """Train and judge at every point of a grid over the settings of train_dra.py: --SETTING VALUE [VALUE ...]."""

    recipe: Literal["fig8", "seeds", "controls", "smoke"] = "fig8"  # where the settings below start from
    workers: int = 2  # processes that evaluate beside the training, on a CPU; 0 for none. Changes no number
    base: str | None = None  # recipe of train_dra.py; by default the sweep recipe's
    method: tuple[Method, ...] = ()  # trained at every point, the first one is compared with; by default the recipe's
    seeds: tuple[int, ...] = ()  # every point is trained with each; by default the recipe's
    only: tuple[str, ...] = ()  # of a recipe with named cases, these alone; by default all
    grid: Annotated[dict[str, tuple[str, ...]], tyro.conf.Suppress] = field(default_factory=dict)

    passed = ("workers", "cluster", "device", "ranks")
    ranks = property(lambda self: self.cluster.gpus_per_node or self.processes or 1)

    @cached_property
    def config(self) -> Sweep:
        """The recipe, changed by what stands on the command line."""
        recipe = SWEEPS[self.recipe]()
        unknown, known = sorted(set(self.only) - set(recipe.cases)), ", ".join(recipe.cases) or "none"
        require(not unknown, f"--only {' '.join(unknown)}: the cases of {self.recipe} are {known}")
        return replace(
            recipe,
            base=self.base or recipe.base,
            method=self.method or recipe.method,
            seeds=self.seeds or recipe.seeds,
            grid={**recipe.grid, **self.grid},
            cases={name: case for name, case in recipe.cases.items() if name in self.only or not self.only},
        )

    @cached_property
    def configs(self) -> dict[int, list[TrainDra]]:
        """The settings of every run."""
        return configurations(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """The sweep, and the settings of every run."""
        runs = {seed: [asdict(config) for config in configs] for seed, configs in self.configs.items()}
        return {"sweep": asdict(self.config), "runs": runs}

    def check(self) -> None:
        """Every point, before any run."""
        cli.check_workers(self.workers)
        assert self.configs


def sweep_options(words: Sequence[str] | None = None) -> SweepOptions:
    """The options of this call; words that are no option of the app make up the grid."""
    options, rest = tyro.cli(
        SweepOptions, args=slurm_words(sys.argv[1:] if words is None else words), return_unknown_args=True
    )
    return replace(options, grid=grid_of(rest))
