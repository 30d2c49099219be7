"""Images that a classifier is attacked on, as the figures of the MAE-Pure paper look at them."""

from collections.abc import Callable

import torch
from rp_attacks import PGD, AutoAttack
from rp_models import noise
from torch import Tensor, nn

from rp_experiments.recipes.analyze_purifier import PurifierAnalysis


class PerturbedImages:
    """Images (b, c, h, w) that a classifier is attacked on, each strength once; their indices choose the noise."""

    def __init__(self, classifier: nn.Module, x: Tensor, y: Tensor, index: Tensor, config: PurifierAnalysis) -> None:
        self.classifier, self.x, self.y, self.index, self.config = classifier, x, y, index, config
        self._attacked = dict[tuple[float, int | None], Tensor]()

    def attacked(self, eps: float, steps: int | None = None) -> Tensor:
        """The images after PGD of so many steps (None: the configured attack) within an Linf radius, [0, 1] units."""
        if eps == 0:
            return self.x
        if (eps, steps) not in self._attacked:
            attack, seed = self._attack(eps, steps), noise.derive_seed(self.config.seed, "attack")
            self._attacked[eps, steps] = self.batched(
                lambda rows: attack(self.classifier, self.x[rows], self.y[rows], seed=seed, index=self.index[rows])
            )
        return self._attacked[eps, steps]

    def _attack(self, eps: float, steps: int | None) -> PGD | AutoAttack:
        if steps is None and self.config.attack == "autoattack":
            return AutoAttack(eps=eps, batch_size=self.config.batch_size)
        steps = steps or self.config.attack_steps
        return PGD(eps=eps, step_size=min(2.5 / steps, 1) * eps, steps=steps)

    def noisy(self, eps: float) -> Tensor:
        """The control: the images with every value moved by the radius up or down at random, inside [0, 1]."""
        draw = noise.normal(self.x.shape[1:], seed=self.config.seed, purpose="random signs", index=self.index)
        return (self.x + eps * draw.sign()).clamp(0, 1)

    @torch.no_grad()
    def accuracy(self, x: Tensor) -> float:
        """The classifier's accuracy on versions of the images."""
        predicted = self.batched(lambda rows: self.classifier(x[rows]).argmax(dim=1))
        return float((predicted == self.y).double().mean())

    def batched(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """What a function of positions (int64) gives for all images, a few at a time."""
        positions = torch.arange(len(self.x), device=self.x.device)
        return torch.cat([function(rows) for rows in positions.split(self.config.batch_size)])
