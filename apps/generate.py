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
from typing import Annotated, Any

import tyro
from rp_experiments import cli
from rp_experiments.recipes.generate import RECIPES, TRAINED, Generation, name_of


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """Make synthetic images with a diffusion model, as files that `train_dra.py` and DM-AT's own code read."""

    checkpoint: tyro.conf.Positional[str] = TRAINED  # EDM, MaskDiT or LightningDiT
    recipe: Annotated[str, cli.choice(RECIPES)] = "plain"  # published settings of a model, where those below start from
    config: Annotated[Generation, tyro.conf.arg(name="")] = field(default_factory=Generation)
    passed = ("checkpoint",)
    name = property(lambda self: name_of(self.checkpoint))

    @property
    def settings(self) -> dict[str, Any]:
        """The checkpoint among them."""
        return {"checkpoint": self.checkpoint, **asdict(self.config)}

    def check(self) -> None:
        """Whether the default was made."""
        if self.checkpoint == TRAINED and not Path(TRAINED).is_file():
            raise ValueError(f"{TRAINED} is not there; make it with pretrain.py edm, or name another checkpoint")


if __name__ == "__main__":
    sys.exit(cli.main(Options, "generate:generate_images", RECIPES))
