"""What `evaluate.py` attacks, and how: the same in each of the processes that share the work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rp_analysis.plots import RobustnessCurve
from rp_attacks import PGD, Classifier, Progress, Report, accuracy_curve, evaluate, suite
from rp_attacks.problem import Attack
from rp_attacks.radii import Norm, usual_radius
from rp_attacks.settings import SUITE_NORMS
from rp_models.data import describe
from rp_models.data.datasets import open_subset
from rp_models.loading import load_classifier
from rp_purify import Defended
from rp_purify.build import build_purifier
from torch import Tensor, nn

from rp_experiments.recipes.evaluation import Evaluation

RADII = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the figure, in multiples of the suite's radius


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """A classifier, perhaps behind a purifier, the images on which it is attacked, and the attacks."""

    config: Evaluation
    model: nn.Module
    source: Classifier | None  # the classifier without its purifier; None if it has none
    x: Tensor
    y: Tensor
    index: Tensor
    attacks: dict[str, Attack]
    norm: Norm
    eps: float | None  # None: the suite's own

    @classmethod
    def build(cls, config: Evaluation, model: str, device: torch.device, root: Path | None) -> "Attacked":
        """Load everything.

        Args:
            config: everything that determines the numbers.
            model: the classifier's checkpoint.
            device: where to compute.
            root: folder of the data sets; None for the usual places.

        Raises:
            CheckpointError: if a checkpoint cannot be read.
            DataError: if networks and data set do not fit.
        """
        info = describe(config.data)
        classifier = load_classifier(model, info).to(device)
        defence: nn.Module = classifier
        if config.defended:
            defence = Defended(build_purifier(config.purifier, info, device), classifier).eval()
        images, index = open_subset(config.data, "test", config.budget.images, device=device, root=root)
        x, y = images.batch(slice(None))
        norm = SUITE_NORMS.get(config.suite, config.norm)
        eps = config.eps
        if eps is None and "linf" in info.eps:
            shape = (info.channels, info.image_size, info.image_size)
            eps = usual_radius(norm, shape=shape, linf=info.eps["linf"])
        source = classifier if config.defended else None
        attacks = suite(
            config.suite,
            eps=eps,
            norm=norm,
            random=config.defended,
            classes=info.num_classes,
            defence=defence,
            source=source,
        )
        return cls(
            config=config, model=defence, source=source, x=x, y=y, index=index, attacks=attacks, norm=norm, eps=eps
        )

    @property
    def blocks(self) -> int:
        """Blocks of images, which are what processes can share."""
        return -(-len(self.x) // self.config.budget.block_size)

    @property
    def stages(self) -> int:
        """Attacks and controls: clean images, and random noise in each ball."""
        return 1 + len({(attack.norm, attack.eps) for attack in self.attacks.values()}) + len(self.attacks)

    def report(
        self, folder: Path, *, shard: tuple[int, int] = (0, 1), progress: Callable[[Progress], None] | None = None
    ) -> Report:
        """Attack and judge, or take from the folder what is there.

        Args:
            folder: of finished blocks.
            shard: rank and number of the processes that share the blocks.
            progress: called after every block.
        """
        config, budget = self.config, self.config.budget
        return evaluate(
            self.model,
            self.x,
            self.y,
            self.attacks,
            seed=config.seed,
            index=self.index,
            batch_size=config.batch_size,
            block_size=budget.block_size,
            passes=budget.passes,
            probes=budget.probes,
            exhaustive=config.exhaustive,
            pixels=config.pixels,
            folder=folder,
            shard=shard,
            source=self.source,
            progress=progress,
        )

    def curve(self) -> RobustnessCurve | None:
        """Accuracy against the Linf radius under a short PGD on the first 100 images, behind a purifier on 32.

        A first look, not the verdict; None for other norms.
        """
        if self.norm != "linf" or not self.eps:
            return None
        count, steps, eot = (32, 10, 2) if self.config.defended else (100, 20, 1)
        x, y = self.x[:count], self.y[:count]
        attack = PGD(eps=self.eps, step_size=2.5 * self.eps / steps, steps=steps, loss="cw", eot=eot)
        radii = tuple(min(factor * self.eps, 1.0) for factor in RADII)
        points = accuracy_curve(
            self.model, x, y, attack, radii, seed=self.config.seed, batch_size=self.config.batch_size
        )
        return RobustnessCurve(
            eps=radii,
            accuracy=tuple(point.accuracy.estimate for point in points),
            low=tuple(point.accuracy.low for point in points),
            high=tuple(point.accuracy.high for point in points),
            images=len(x),
        )
