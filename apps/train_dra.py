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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.dra_settings import TrainDra

if TYPE_CHECKING:
    RecipeName = str
else:
    RecipeName = Literal[tuple(RECIPES)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Adversarial training with diffusion representation alignment, from nothing to an honest robust accuracy."""

    recipe: RecipeName = "digits"  # where the settings below start from
    out: Path | None = None  # the run's folder; by default runs/train_dra/RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    workers: int = 2  # processes that evaluate beside the training, on a CPU; 0 for none. Changes no number
    cache: Path = Path("runs/cache")  # where diffusion models and their images are kept for other runs
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[TrainDra, tyro.conf.arg(name="")] = field(default_factory=TrainDra)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    out = options.out or Path("runs") / "train_dra" / options.recipe
    if cli.first_process():
        print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.train_dra import train_dra

    return cli.guarded(
        lambda: train_dra(
            options.config,
            out,
            recipe=options.recipe,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
            workers=options.workers,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
