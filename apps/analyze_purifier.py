"""Look inside a purifier's networks: attention, reconstruction loss and the theorems of the MAE-Pure paper.

One HTML page with its Figures 1, 2, 4, 6, 7 and Theorems 3.1, 3.2 on real images, and every number in `result.json`.

    uv run apps/analyze_purifier.py
    uv run apps/analyze_purifier.py --maskdit maskdit.safetensors --rmae rmae.safetensors
    uv run apps/analyze_purifier.py --recipe fashion-mnist --mae mae.safetensors
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.analyze_purifier import RECIPES, PurifierAnalysis
from rp_experiments.recipes.standard_classifier import why_missing


@dataclass(frozen=True, kw_only=True)
class Options:
    """Look inside a purifier's networks: attention, reconstruction loss and the theorems of the MAE-Pure paper."""

    recipe: Literal["digits", "fashion-mnist", "smoke"] = "digits"  # where the settings below start from
    out: Path | None = None  # the folder of page and figures; by default runs/analyze_purifier/RECIPE
    resume: bool = False  # use the folder of an interrupted analysis
    cache: Path = Path("runs/cache")  # where the standard classifier is kept for other runs
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[PurifierAnalysis, tyro.conf.arg(name="")] = field(default_factory=PurifierAnalysis)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    if options.dry_run:
        cli.print_json(asdict(options.config))
        return 0
    if not options.config.classifier and (missing := why_missing("--classifier", options.config.data)):
        cli.fail(missing)
    out = options.out or Path("runs") / "analyze_purifier" / options.recipe
    print(f"folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.analyze_purifier import PurifierAnalysisJob

    return cli.guarded(
        lambda: PurifierAnalysisJob.open(
            options.config,
            out,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
