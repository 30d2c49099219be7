"""Train and judge at every point of a grid over the settings of `train_dra.py`, with several seeds.

Any setting of `train_dra.py` can be given one or several values; the grid is all combinations.

    uv run apps/sweep.py --recipe fig8
    uv run apps/sweep.py --recipe seeds --seeds 0 1 2
    uv run apps/sweep.py --method dm-at dm-at+dra --training.beta 3 5 --alignment.sigma 0.05 0.1 --out runs/mine
    uv run apps/sweep.py --recipe fig8 --resume

Diffusion model and synthetic images are made once and shared. A finished run is not repeated. The table holds means
over seeds, and differences that are paired by seed and by image.
"""

import sys

from rp_experiments import cli
from rp_experiments.recipes.sweep import sweep_options

if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: cli.start(sweep_options(), "sweep:run_sweep")))
