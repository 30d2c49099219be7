"""A standard classifier to attack, and test images under the attack and under noise of the same radius, the control."""

from collections.abc import Callable

import torch
from rp_attacks import PGD
from rp_dra import ClassifierSettings, ClassifierTrainer, TrainingSettings, objective_of
from rp_models import noise
from rp_models.data import ImageSet
from rp_models.training import ProgressBar
from torch import Tensor, nn

from rp_experiments.recipes.analyze_purifier import PurifierAnalysis

_EPOCH_IMAGES = 6_400  # the learning rate changes from epoch to epoch, so that a single long one would learn nothing


class PerturbedImages:
    """Images that PGD on a classifier attacks, each strength once.

    Args:
        classifier: what is attacked.
        x: images (b, c, h, w) in [0, 1].
        y: labels (b,).
        index: int64 (b,), the images' numbers in their data set: they choose the noise.
        config: seed, steps and batch size.
    """

    def __init__(self, classifier: nn.Module, x: Tensor, y: Tensor, index: Tensor, config: PurifierAnalysis) -> None:
        self.classifier, self.x, self.y, self.index, self.config = classifier, x, y, index, config
        self._attacked = dict[tuple[float, int], Tensor]()

    def attacked(self, eps: float, steps: int | None = None) -> Tensor:
        """The images after PGD of so many steps (None: the configured ones) within an Linf radius in [0, 1] units."""
        steps = steps or self.config.attack_steps
        if eps == 0:
            return self.x
        if (eps, steps) not in self._attacked:
            pgd = PGD(eps=eps, step_size=min(2.5 / steps, 1) * eps, steps=steps)
            seed = noise.derive_seed(self.config.seed, "attack")
            self._attacked[eps, steps] = self.batched(
                lambda rows: pgd(self.classifier, self.x[rows], self.y[rows], seed=seed, index=self.index[rows])
            )
        return self._attacked[eps, steps]

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
        """What a function gives for all images, a few at a time; it gets their positions (int64)."""
        positions = torch.arange(len(self.x), device=self.x.device)
        return torch.cat([function(rows) for rows in positions.split(self.config.batch_size)])


def train_standard(train: ImageSet, config: PurifierAnalysis, progress: ProgressBar) -> nn.Module:
    """A small wide ResNet, trained on clean images as the standard classifier of `train_dra.py` is.

    Args:
        train: training images, on the device where to train.
        config: epochs and seed.
        progress: shows the steps.
    """
    recipe = TrainingSettings(
        epochs=config.classifier_epochs,
        epoch_images=min(len(train), _EPOCH_IMAGES),
        batch_size=128,
        crop_padding=1,
        flip=False,
        tau=0.98,
        validate_every=0,
    )
    trainer = ClassifierTrainer(
        ClassifierSettings(depth=10, width=1),
        recipe,
        train,
        objective=objective_of(recipe, robust=False),
        seed=config.seed,
    )
    progress.start("standard classifier", trainer.steps, 0)
    for step in range(trainer.steps):
        progress.advance(step + 1, {"loss": float(trainer.step(step)["loss"])})
    progress.finish()
    return trainer.result()
