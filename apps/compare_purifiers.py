"""The honest table: every purifier in front of one classifier, under the same attacks, the worst of each image.

Networks that are missing are trained first and kept in the cache; on the digits all of it takes about an hour of one
core, which the cores share, and goes on with `--resume` wherever it stopped.

    uv run apps/compare_purifiers.py
    uv run apps/compare_purifiers.py --only none mae-pure rmae-pure --images 200
    uv run apps/compare_purifiers.py --tune
    uv run apps/compare_purifiers.py --so-far --out runs/compare_purifiers/digits
    uv run torchrun --nproc-per-node 4 apps/compare_purifiers.py --recipe fashion-mnist
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rp_experiments import cli, launch
from rp_experiments.recipes.compare_purifiers import Comparison
from rp_experiments.recipes.paper_scale import COMPARISONS


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """Every purifier in front of one classifier, under the same attacks, the worst of each image."""

    recipe: Annotated[str, cli.choice(COMPARISONS)] = "digits"  # where the settings below start from
    tune: bool = False  # try settings of the purifiers on the validation split instead
    so_far: bool = False  # print and write the table of the rows that are done in the folder, at any time, and stop
    config: Annotated[Comparison, tyro.conf.arg(name="")] = field(default_factory=Comparison)
    passed = ("tune", "so_far")

    @property
    def name(self) -> str:
        """Of the recipe."""
        return f"{self.recipe}-tuning" if self.tune else self.recipe

    @property
    def default_processes(self) -> int:  # type: ignore[override]
        """One a core."""
        return 1 if self.so_far else launch.cores()


if __name__ == "__main__":
    sys.exit(cli.main(Options, "compare_purifiers:compare_purifiers", COMPARISONS))
