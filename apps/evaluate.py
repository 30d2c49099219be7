"""Attack a classifier, defended or not, and report the accuracy that is left; without a model, a standard one's.

uv run apps/evaluate.py --defended
uv run apps/evaluate.py --model runs/train_dra/digits/checkpoints/dm-at+dra.safetensors --suite autoattack
uv run apps/evaluate.py --model standard.safetensors --suite purifier --defended --purifier.kind mae-pure
uv run torchrun --nproc-per-node 8 apps/evaluate.py --model wrn.safetensors --data cifar10 --suite purifier --defended \
    --purifier.mae mae.safetensors --block-size 64
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.evaluation import Evaluation
from rp_experiments.recipes.standard_classifier import why_missing


@dataclass(frozen=True, kw_only=True)
class Options:
    """Attack a classifier, defended or not, and report the accuracy that is left."""

    out: Path | None = None  # the run's folder; by default runs/evaluate/MODEL-SUITE
    resume: bool = False  # go on with the evaluation that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    cache: Path = Path("runs/cache")  # where the standard classifier is kept for other runs
    data_root: Path | None = None  # folder of the data sets; by default $RP_DATA, ./data, and where systems keep them
    # processes that share the blocks of images on a CPU; by default behind a purifier one a core. Changes no number
    workers: int | None = None
    config: Annotated[Evaluation, tyro.conf.arg(name="")] = field(default_factory=Evaluation)


def main() -> int:
    """Parse, then run; torch is imported only after parsing."""
    options = cli.parse_plain(Options)
    if options.dry_run:
        cli.print_json(options.config.resolved())
        return 0
    cli.check_workers(options.workers)
    if not options.config.model and (missing := why_missing("--model", options.config.data)):
        cli.fail(missing)
    name = f"{options.config.model_name}-{options.config.suite}"
    if options.config.defended:
        name += f"-{options.config.purifier.kind}"
    out = options.out or Path("runs") / "evaluate" / name
    print(f"run folder: {out}", file=sys.stderr, flush=True)
    from rp_experiments.evaluate import run

    return cli.guarded(
        lambda: run(
            options.config,
            out,
            resume=options.resume,
            device=options.device,
            cache=options.cache,
            root=options.data_root,
            workers=options.workers,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
