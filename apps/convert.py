"""Turn an official weight file into a checkpoint of this project, or a classifier into RobustBench's layout.

    uv run apps/convert.py nvlabs edm-cifar10-32x32-cond-vp.pkl edm-cifar10.safetensors
    uv run apps/convert.py robust cifar10_linf_wrn28-10.pt wrn-28-10.safetensors
    uv run apps/convert.py vae vavae.pt vavae.safetensors --half
    uv run apps/convert.py to-robustbench runs/mine/checkpoints/dm-at+dra.safetensors mine.pt
    uv run apps/convert.py submission runs/mine submission --option method=dm-at+dra --option authors="A. B."

Nothing in an official file is executed. A reader's own options are given as NAME=VALUE, the value as JSON:
`--option heads=16 --option averaged=false`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli

Kind = (
    Literal["nvlabs", "score-sde", "guided-diffusion", "mae", "maskdit", "lightningdit", "repa", "vae"]
    | Literal["latent-statistics", "robust", "resnet", "to-robustbench", "submission"]
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn an official weight file into a checkpoint of this project, or a classifier into RobustBench's layout."""

    # whose file it is: EDM's, MAE's, ...; robust is DM-AT, RobustBench and TRADES,
    # resnet is torchvision and timm. to-robustbench goes the other way, submission makes all that RobustBench wants
    kind: tyro.conf.Positional[Kind]
    source: tyro.conf.Positional[Path]  # the official file; for to-robustbench a checkpoint, for submission a run
    target: tyro.conf.Positional[Path]  # the file to write; an existing one is not overwritten
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # NAME=VALUE for the reader, value as JSON
    half: bool = False  # store the weights in float16


def work() -> None:
    """Parse, then convert; torch is imported only after the options were read."""
    options = cli.parse(Options)
    settings = cli.named_values(options.option)
    if options.target.exists():
        raise ValueError(f"{options.target} exists; remove it or name another target")
    if options.kind == "to-robustbench" and (settings or options.half):
        raise ValueError("to-robustbench writes the weights as they are; leave out --option and --half")
    from rp_experiments.convert import convert, to_robustbench
    from rp_experiments.submission import submission

    if options.kind == "submission":
        submission(options.source, options.target, options=settings)
    elif options.kind == "to-robustbench":
        to_robustbench(options.source, options.target)
    else:
        convert(options.kind, options.source, options.target, options=settings, half=options.half)


if __name__ == "__main__":
    sys.exit(cli.guarded(work))
