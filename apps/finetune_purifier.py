"""Robust fine-tuning of a purifier's network, RMAE or RMaskDiT, or the denoiser of ADBM or ADDT, and what it changes.

Two stages: training images are attacked through purifier and classifier and stored; then the network is trained on
them, the classifier frozen: through one reconstruction, or through a few sign steps with a curved backward rule. On the
digits under two minutes, with the autoencoder that ships with rp-models and a standard classifier that is made first.

Which way matters: through one reconstruction, the reconstruction becomes robust and RMAE-Pure does not; through the
sign steps (digits-steps, two to three minutes) RMAE-Pure does. Processes share both stages.

    uv run apps/finetune_purifier.py
    uv run apps/finetune_purifier.py --recipe digits-steps
    uv run apps/finetune_purifier.py --recipe digits-maskdit --maskdit weights/maskdit-digits.safetensors
    uv run apps/finetune_purifier.py --recipe digits-adbm --edm weights/edm-digits-unconditional.safetensors
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.paper_scale import FINETUNINGS
from rp_experiments.recipes.standard_classifier import check_named


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """Robust fine-tuning of a purifier's network and what it changes."""

    recipe: Annotated[str, cli.choice(FINETUNINGS)] = "digits"  # where the settings below start from
    config: Annotated[Finetuning, tyro.conf.arg(name="")] = field(default_factory=Finetuning)

    @property
    def name(self) -> str:
        """Recipe and kind."""
        return self.recipe if self.config.kind in self.recipe else f"{self.recipe}-{self.config.kind}"

    def check(self) -> None:
        """Whether there are networks."""
        check_named(self.config.classifier, "--classifier", self.config.data)
        for kind, role in (("maskdit", "maskdit"), ("adbm", "edm"), ("addt", "edm")):
            if self.config.kind == kind and not getattr(self.config, role):
                raise ValueError(f"kind {kind} needs a checkpoint; name it with --{role}")


if __name__ == "__main__":
    sys.exit(cli.main(Options, "finetune_purifier:finetune_purifier", FINETUNINGS))
