"""The honest table: every purifier in front of one classifier, under the same attacks, the worst of each image.

Networks that are missing are trained first and kept in the cache; on the digits all of it takes about an hour of one
core, which the cores share, and goes on with `--resume` wherever it stopped.

    uv run apps/compare_purifiers.py
    uv run apps/compare_purifiers.py --only none mae_pure rmae_pure --images 200
    uv run apps/compare_purifiers.py --tune
    uv run torchrun --nproc-per-node 4 apps/compare_purifiers.py --recipe fashion-mnist
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.compare_purifiers import RECIPES, Comparison


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every purifier in front of one classifier, under the same attacks, the worst of each image."""

    recipe: Literal["digits", "fashion-mnist", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the run's folder; by default runs/compare_purifiers/RECIPE
    cache: Path = Path("runs/cache")  # networks that other runs made
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    resume: bool = False  # go on with the run that is in the folder
    tune: bool = False  # try settings of the purifiers on the validation split instead
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    # processes that evaluate rows side by side on a CPU; by default one a core. Moves numbers by rounding alone
    workers: int | None = None
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[Comparison, tyro.conf.arg(name="")] = field(default_factory=Comparison)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    name = f"{options.recipe}-tuning" if options.tune else options.recipe
    out = options.out or Path("runs") / "compare_purifiers" / name
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    cli.check_workers(options.workers)
    from rp_experiments.compare_purifiers import compare

    return cli.guarded(
        lambda: compare(
            options.config,
            out,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
            tune=options.tune,
            workers=options.workers,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
