"""Attack a classifier, defended or not, and report the accuracy that is left; without a model, a standard one's.

uv run apps/evaluate.py --defended
uv run apps/evaluate.py --recipe cifar10 --model wrn.safetensors --purifier.mae mae.safetensors
uv run apps/evaluate.py --model robustbench:Wang2023Better_WRN-28-10 --suite robustbench
uv run apps/evaluate.py --suite certified --defended --purifier.kind noise --purifier.std 0.25
uv run torchrun --nproc-per-node 8 apps/evaluate.py --model my_model.py:build --data cifar10 --suite autoattack
"""

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro
from rp_experiments import cli, launch
from rp_experiments.recipes.evaluation import RECIPES, Evaluation
from rp_experiments.recipes.standard_classifier import check_named
from rp_models.settings import require

JOBS = {"certified": "certified:certify_images", "beyond-lp": "beyond_lp:beyond_lp", "robustbench": "robustbench:judge"}


@dataclass(frozen=True, kw_only=True)
class Options(cli.SharedOptions):
    """Attack a classifier, defended or not, and report the accuracy that is left."""

    tensorboard: bool = False  # also log every step of the attacks, for TensorBoard too, to tensorboard/ in the folder
    compiled: bool = False  # torch.compile the classifier: on a GPU faster after a while; moves numbers by rounding
    recipe: Annotated[str, cli.choice(RECIPES)] = "digits"  # where the settings below start from
    config: Annotated[Evaluation, tyro.conf.arg(name="")] = field(default_factory=Evaluation)
    passed = property(lambda self: () if self.config.suite in JOBS else ("tensorboard", "compiled"))

    name = property(lambda self: self.config.name)

    @property
    def settings(self) -> Any:
        """All settings, those left open as numbers."""
        return self.config.resolved()

    @property
    def default_processes(self) -> int:  # type: ignore[override]
        """Behind a purifier one a core."""
        return launch.cores() if self.config.defended else 1

    def check(self) -> None:
        """Whether there is a classifier."""
        check_named(self.config.model, "--model", self.config.data)
        if self.tensorboard or self.compiled:
            require(self.config.suite not in JOBS, "--tensorboard and --compiled are for suites of attacks")


def start(options: Options) -> None:
    """Attack, certify, or what else the suite asks for."""
    cli.start(options, JOBS.get(options.config.suite, "evaluate:evaluate"))


if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: start(cli.parse(Options, RECIPES))))
