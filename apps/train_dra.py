"""Adversarial training with diffusion representation alignment, from nothing to an honest robust accuracy.

Trains an EDM diffusion model (or takes the cached or a given one), draws synthetic images from it (or takes files),
trains each method from the same seed, and judges them by AutoAttack on the test split. Without arguments: the embedded
digits, a few minutes on two cores.

    uv run apps/train_dra.py
    uv run apps/train_dra.py --method at at+dra --out runs/no-synthetic
    uv run apps/train_dra.py --resume
    uv run torchrun --nproc-per-node 8 apps/train_dra.py --recipe cifar10-wrn-28-10-1m --method dm-at+dra

The last one needs `--data-root FOLDER`, `--synthetic.paths FILE` and `--edm FILE` where these are not at their usual
places.
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.dra import RECIPES, TrainDra


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """Adversarial training with diffusion representation alignment, from nothing to an honest robust accuracy."""

    recipe: Annotated[str, cli.choice(RECIPES)] = "digits"  # where the settings below start from
    workers: int = 2  # processes that evaluate beside the training, on a CPU; 0 for none. Changes no number
    config: Annotated[TrainDra, tyro.conf.arg(name="")] = field(default_factory=TrainDra)
    passed = ("recipe", "workers")

    def check(self) -> None:
        """Whether the workers can be started."""
        cli.check_workers(self.workers)


if __name__ == "__main__":
    sys.exit(cli.main(Options, "train_dra:train_dra", RECIPES))
