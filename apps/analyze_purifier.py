"""Look inside a purifier's networks: attention, reconstruction loss and the theorems of the MAE-Pure paper.

One HTML page with its Figures 1, 2, 4, 6, 7 and Theorems 3.1, 3.2 on real images, and every number in `result.json`.

    uv run apps/analyze_purifier.py
    uv run apps/analyze_purifier.py --maskdit maskdit.safetensors --rmae rmae.safetensors
    uv run apps/analyze_purifier.py --recipe fashion-mnist --mae mae.safetensors
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.analyze_purifier import RECIPES, PurifierAnalysis
from rp_experiments.recipes.standard_classifier import check_named


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Look inside a purifier's networks: attention, reconstruction loss and the theorems of the MAE-Pure paper."""

    recipe: Literal["digits", "fashion-mnist", "smoke"] = "digits"  # where the settings below start from
    config: Annotated[PurifierAnalysis, tyro.conf.arg(name="")] = field(default_factory=PurifierAnalysis)

    def check(self) -> None:
        """Whether there is a classifier."""
        check_named(self.config.classifier, "--classifier", self.config.data)


if __name__ == "__main__":
    sys.exit(cli.main(Options, "analyze_purifier:analyze_purifier", RECIPES))
