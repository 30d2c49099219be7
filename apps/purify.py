"""Purify images, and say what that changes: their pixels, an autoencoder's loss, a classifier's accuracy.

uv run apps/purify.py
uv run apps/purify.py --input attacked.npz --classifier standard.safetensors
uv run apps/purify.py --input a.png b.png --purifier.kind diffpure --purifier.model edm.safetensors
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.purification import Purification


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Purify images, and say what that changes: their pixels, an autoencoder's loss, a classifier's accuracy."""

    config: Annotated[Purification, tyro.conf.arg(name="")] = field(default_factory=Purification)

    @property
    def name(self) -> str:
        """What is purified, and by what."""
        given = self.config.input
        what = Path(given[0]).stem if given else f"{Path(self.config.data).stem}-{self.config.split or 'images'}"
        return f"{what}-{self.config.purifier.kind}"


if __name__ == "__main__":
    sys.exit(cli.main(Options, "purify:purify"))
