"""Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses.

On the digits about two minutes of two cores.

    uv run apps/analyze.py
    uv run apps/analyze.py --run runs/my-run --sae-k 8 16
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rp_experiments import cli
from rp_experiments.recipes.analysis import Analysis


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses."""

    config: Annotated[Analysis, tyro.conf.arg(name="")] = field(default_factory=Analysis)

    @property
    def name(self) -> str:
        """That of the run."""
        return Path(self.config.run).name

    def check(self) -> None:
        """Whether there is a run."""
        if not (Path(self.config.run) / "result.json").is_file():
            raise ValueError(f"{self.config.run} holds no finished run of train_dra.py; name one with --run")


if __name__ == "__main__":
    sys.exit(cli.main(Options, "analyze:analyze"))
