"""Robust fine-tuning of a purifier's network, RMAE or RMaskDiT, and what it changes.

Two stages: training images are attacked through purifier and classifier and stored; then the network is trained on
them, the classifier frozen: through one reconstruction, or through a few sign steps with a curved backward rule. On the
digits under two minutes, with the autoencoder that ships with rp-models and a standard classifier that is made first.

Which way matters: through one reconstruction, the reconstruction becomes robust and RMAE-Pure does not; through the
sign steps (digits-steps, two to three minutes) RMAE-Pure does.

    uv run apps/finetune_purifier.py
    uv run apps/finetune_purifier.py --recipe digits-steps
    uv run apps/finetune_purifier.py --recipe digits-maskdit --maskdit weights/maskdit-digits.safetensors
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.finetuning import RECIPES, Finetuning
from rp_experiments.recipes.standard_classifier import why_missing


@dataclass(frozen=True, kw_only=True)
class Options:
    """Robust fine-tuning of a purifier's network, RMAE or RMaskDiT, and what it changes."""

    recipe: Literal["digits", "digits-steps", "digits-maskdit", "digits-maskdit-steps", "fashion-mnist", "smoke"] = (
        "digits"  # where the settings below start from
    )
    out: Path | None = None  # the run's folder; by default runs/finetune_purifier/, named after recipe and kind
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    cache: Path = Path("runs/cache")  # where the standard classifier is kept for other runs
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    config: Annotated[Finetuning, tyro.conf.arg(name="")] = field(default_factory=Finetuning)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    config = options.config
    if options.dry_run:
        cli.print_json(asdict(config))
        return 0
    if not config.classifier and (missing := why_missing("--classifier", config.data)):
        cli.fail(missing)
    if config.kind == "maskdit" and not config.maskdit:
        cli.fail("kind maskdit needs a checkpoint; name it with --maskdit")
    name = options.recipe if config.kind in options.recipe else f"{options.recipe}-{config.kind}"
    out = options.out or Path("runs") / "finetune_purifier" / name
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.finetune_purifier import FinetuneJob

    return cli.guarded(
        lambda: FinetuneJob.open(
            config,
            out,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
        ).run()
    )


if __name__ == "__main__":
    sys.exit(main())
