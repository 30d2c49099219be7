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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rp_dra.settings import Method
from rp_experiments import cli
from rp_experiments.recipes.sweep import SWEEPS, Sweep
from rp_experiments.sweep_grid import configuration


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train and judge at every point of a grid over the settings of train_dra.py: --SETTING VALUE [VALUE ...]."""

    recipe: Literal["fig8", "seeds", "smoke"] = "fig8"  # where the settings below start from
    out: Path | None = None  # the sweep's folder; by default runs/sweep/RECIPE
    resume: bool = False  # go on with the sweep that is in the folder
    dry_run: bool = False  # print the resolved configurations of all points as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    workers: int = 2  # processes that evaluate beside the training, on a CPU; 0 for none. Changes no number
    cache: Path = Path("runs/cache")  # where diffusion models and their images are kept for other runs
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    base: str | None = None  # recipe of train_dra.py; by default the sweep recipe's
    method: tuple[Method, ...] = ()  # trained at every point, the first one is compared with; by default the recipe's
    seeds: tuple[int, ...] = ()  # every point is trained with each; by default the recipe's


def main() -> int:
    """Parse, check every point, then run; torch is imported only after that."""
    try:
        options, rest = tyro.cli(Options, return_unknown_args=True)
        sweep = resolve(options, grid_of(rest))
        configs = {seed: [configuration(sweep, point, seed) for point in sweep.points()] for seed in sweep.seeds}
    except ValueError as error:
        cli.fail(str(error))
    if options.dry_run:
        cli.print_json({"sweep": asdict(sweep), "runs": {s: [asdict(c) for c in of] for s, of in configs.items()}})
        return 0
    out = options.out or Path("runs") / "sweep" / options.recipe
    if cli.first_process():
        print(f"sweep folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.sweep import run_sweep
    from rp_experiments.train_dra import Surroundings

    where = Surroundings(options.device, options.cache, options.data_root, options.workers)
    return cli.guarded(lambda: run_sweep(sweep, configs, out, resume=options.resume, where=where))


def resolve(options: Options, grid: dict[str, tuple[str, ...]]) -> Sweep:
    """The sweep recipe, changed by what stands on the command line."""
    sweep = SWEEPS[options.recipe]()
    return replace(
        sweep,
        base=options.base or sweep.base,
        method=options.method or sweep.method,
        seeds=options.seeds or sweep.seeds,
        grid={**sweep.grid, **grid},
    )


def grid_of(words: list[str]) -> dict[str, tuple[str, ...]]:
    """The settings among the words of a command line, each with its values.

    Raises:
        ValueError: for a word that belongs to no setting.
    """
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


if __name__ == "__main__":
    sys.exit(main())
