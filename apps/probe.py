"""How robust are a diffusion model's features by themselves? Linear probes, attacked honestly.

Fits linear probes on a frozen EDM diffusion model (trained now, or taken from the cache of train_dra.py), compares
their accuracy over the radius with classifiers after standard and adversarial training (Fig. 3b of the DRA paper), and
shows what a probe with fresh noise seems to resist, with and without expectation over its noise (Appendix C). Without
arguments: the embedded digits, a few minutes on two cores.

    uv run apps/probe.py
    uv run apps/probe.py --baselines standard at "noisy encoder" "fine-tuned encoder"
    uv run apps/probe.py --resume
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.probe import RECIPES, ProbeStudy


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """How robust are a diffusion model's features by themselves? Linear probes, attacked honestly."""

    recipe: Literal["digits", "smoke"] = "digits"  # where the settings below start from
    config: Annotated[ProbeStudy, tyro.conf.arg(name="")] = field(default_factory=ProbeStudy)


if __name__ == "__main__":
    sys.exit(cli.main(Options, "probe:probe", RECIPES))
