r"""Make synthetic images with a diffusion model, as `.npz` files that `train_dra.py` and DM-AT's own code read.

    uv run apps/pretrain.py edm && uv run apps/generate.py
    uv run apps/generate.py edm-cifar10.safetensors --recipe cifar10 --classifier standard.safetensors --keep 0.2
    uv run torchrun --nproc-per-node 8 apps/generate.py edm-cifar10.safetensors --recipe cifar10 --images 50000000
    uv run apps/generate.py lightningdit.safetensors --recipe lightningdit-800ep \
        --vae vavae.safetensors --latents latents.safetensors

Official checkpoints are read after `convert.py`. Every image has its own seed. A run that was stopped, by whatever,
goes on with --resume and ends with the same bytes.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rp_experiments import cli
from rp_experiments.recipes.generate import RECIPES, Generation

TRAINED = "runs/pretrain/edm-digits/checkpoints/model.safetensors"  # where `pretrain.py edm` leaves its model


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make synthetic images with a diffusion model, as files that `train_dra.py` and DM-AT's own code read."""

    checkpoint: tyro.conf.Positional[str] = TRAINED  # EDM, MaskDiT or LightningDiT
    recipe: Literal[
        "plain",
        "cifar10",
        "cifar100",
        "svhn",
        "imagenet64",
        "maskdit-256",
        "lightningdit-64ep",
        "lightningdit-800ep",
        "smoke",
    ] = "plain"  # where the settings below start from: the published settings of a model
    out: Path | None = None  # the run's folder; by default runs/generate/NAME-OF-THE-CHECKPOINT
    resume: bool = False  # go on with the run that is in the folder
    dry_run: bool = False  # print the resolved configuration as JSON and stop
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda, cuda:1, mps
    config: Annotated[Generation, tyro.conf.arg(name="")] = field(default_factory=Generation)


def name_of(checkpoint: Path) -> str:
    """A name for what was made with a checkpoint; that of the run if the file is `RUN/checkpoints/model`."""
    inside_run = checkpoint.parent.name == "checkpoints" and checkpoint.stem == "model"
    return checkpoint.parent.parent.name if inside_run else checkpoint.stem


def main() -> int:
    """Parse, then generate; torch is imported only after parsing."""
    options = cli.parse(Options, RECIPES)
    if options.dry_run:
        cli.print_json({"checkpoint": options.checkpoint, **asdict(options.config)})
        return 0
    if options.checkpoint == TRAINED and not Path(TRAINED).is_file():
        cli.fail(f"{TRAINED} is not there; make it with pretrain.py edm, or name another checkpoint")
    out = options.out or Path("runs") / "generate" / name_of(Path(options.checkpoint))
    from rp_experiments.generate import GenerateJob
    from rp_models.shards import Workers

    workers = Workers.from_environment()
    if workers.main:
        print(f"run folder: {out}", file=sys.stderr, flush=True)

    def work() -> None:
        job = GenerateJob.open(
            options.checkpoint, options.config, out, resume=options.resume, device=options.device, workers=workers
        )
        job.run()

    return cli.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
