"""Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses.

On the digits about two minutes of two cores.

    uv run apps/analyze.py
    uv run apps/analyze.py --run runs/my-run --sae-k 8 16

With --models it compares models of RobustBench with a diffusion model instead (Fig. 1 and 9):

    uv run apps/analyze.py --models all --edm edm-cifar10.safetensors --data-root data
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rp_experiments import cli
from rp_experiments.recipes.analysis import Analysis, ZooComparison


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Look inside the classifiers of a run of `train_dra.py`: one HTML page with the DRA paper's analyses."""

    config: Annotated[Analysis, tyro.conf.arg(name="")] = field(default_factory=Analysis)

    zoo: Annotated[ZooComparison, tyro.conf.arg(name="")] = field(default_factory=ZooComparison)
    passed = ("zoo",)

    @property
    def name(self) -> str:
        """That of the run, or what is compared."""
        return f"robustbench-{self.zoo.data}-{self.zoo.threat}" if self.zoo.models else Path(self.config.run).name

    @property
    def settings(self) -> Any:
        """Those of the analysis, and of the comparison where there is one."""
        return asdict(self.config) | (asdict(self.zoo) if self.zoo.models else {})

    def check(self) -> None:
        """Whether there is a run."""
        if not self.zoo.models and not (Path(self.config.run) / "result.json").is_file():
            raise ValueError(f"{self.config.run} holds no finished run of train_dra.py; name one with --run")


if __name__ == "__main__":
    sys.exit(cli.main(Options, "analyze:analyze"))
