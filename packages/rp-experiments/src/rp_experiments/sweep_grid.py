"""The settings of one point of a sweep, parsed by the names that they have on the command line of `train_dra.py`."""

from dataclasses import dataclass, field
from typing import Annotated

import tyro

from rp_experiments.recipes.dra import RECIPES as DRA_RECIPES
from rp_experiments.recipes.dra_settings import TrainDra
from rp_experiments.recipes.sweep import Point, Sweep


def configuration(sweep: Sweep, point: Point, seed: int) -> TrainDra:
    """The settings of one run: the base recipe, its point of the grid, methods and seed.

    Raises:
        SystemExit: with status 2 for an unknown setting or a value out of range.
    """
    words = ["--method", *sweep.method, "--seed", str(seed)]
    for name, value in point.items():
        words += [f"--{name.replace('_', '-')}", value]
    default = _Run(config=DRA_RECIPES[sweep.base]())
    return tyro.cli(_Run, args=words, default=default, prog="sweep.py").config


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run's settings, by the names that they have in train_dra.py."""

    config: Annotated[TrainDra, tyro.conf.arg(name="")] = field(default_factory=TrainDra)
