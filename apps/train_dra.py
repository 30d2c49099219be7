"""Adversarial training with diffusion representation alignment, from nothing to an honest robust accuracy.

Trains an EDM diffusion model (or takes the cached one), draws synthetic images from it, trains each method from the
same seed, and judges them by AutoAttack on the test split. Without arguments: the embedded digits, a few minutes on two
cores.

    uv run apps/train_dra.py
    uv run apps/train_dra.py --method at at+dra --out runs/no-synthetic
    uv run apps/train_dra.py --resume
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import commandline
import tyro
from recipes.dra import RECIPES, TrainDra


@dataclass(frozen=True, kw_only=True)
class Options:
    """Adversarial training with diffusion representation alignment, from nothing to an honest robust accuracy."""

    recipe: Literal["digits", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the run's folder; by default runs/train_dra/RECIPE
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    workers: int = 2  # processes that evaluate beside the training, on a CPU; 0 for none. Changes no number
    cache: Path = Path("runs/cache")  # where trained diffusion models are kept for other runs
    config: Annotated[TrainDra, tyro.conf.arg(name="")] = field(default_factory=TrainDra)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = commandline.parse(Options, RECIPES)
    if options.dry_run:
        commandline.print_json(asdict(options.config))
        return 0
    out = options.out or Path("runs") / "train_dra" / options.recipe
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from jobs.train_dra import TrainDraJob

    return commandline.guarded(
        lambda: TrainDraJob.open(
            options.config, out, resume=options.resume, device=options.device, cache=options.cache
        ).run(workers=options.workers)
    )


if __name__ == "__main__":
    sys.exit(main())
