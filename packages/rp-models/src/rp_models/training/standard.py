"""Training a standard classifier, without an adversary, on one data set."""

import dataclasses
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from rp_models.data.augmentation import Augmentation
from rp_models.data.images import Images
from rp_models.foreign import is_foreign
from rp_models.settings import StandardSettings
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import mean_over
from rp_models.training.optimizer import build_optimizer, decay_groups
from rp_models.training.schedule import cosine
from rp_models.training.trainer import NetworkTrainer, crops_and_flips
from rp_models.zoo import build, constructor


class StandardTrainer(NetworkTrainer[StandardSettings]):
    """Trains a classifier by cross-entropy; the logged accuracy is that on the batch."""

    purpose = "classifier"

    def network(self, images: Images) -> nn.Module:
        """See `build_standard`."""
        return build_standard(self.settings, images)

    def optimizer(self) -> Optimizer:
        """Biases and norms do not decay."""
        settings = self.settings
        groups = decay_groups(self.model, settings.weight_decay, without_decay=lambda _, p: p.dim() == 1)
        return build_optimizer(settings.optimizer, groups, lr=settings.lr)

    def changes(self) -> Augmentation:
        """Random crops, flips, rotations and holes."""
        angle, cutout = self.settings.rotation_degrees, self.settings.cutout
        return dataclasses.replace(crops_and_flips(self.settings), rotation_degrees=angle, cutout=cutout)

    def rate(self, step: int) -> float:
        """A cosine with warm-up."""
        settings = self.settings
        return cosine(step, steps=settings.steps, peak=settings.lr, warmup=settings.warmup_steps)

    def loss(self, x: Tensor, labels: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The smoothed cross-entropy, and the accuracy."""
        del draw
        logits = self.model(x)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        return loss, {"accuracy": (logits.argmax(dim=1) == labels).float().mean()}


def build_standard(settings: StandardSettings, images: Images) -> nn.Module:
    """The classifier of these settings, for this data set's channels and classes, with its normalisation inside.

    Raises ValueError if the named network does not take these.
    """
    info = images.info
    data: dict[str, Any] = {"num_classes": info.num_classes, "in_channels": info.channels}
    statistics = {"mean": list(info.mean), "std": list(info.std)}
    if is_foreign(settings.network):  # which may normalise by itself
        taken = inspect.signature(constructor(settings.network)).parameters
        statistics = {name: value for name, value in statistics.items() if name in taken}
    return build(settings.network, **data, **statistics, **settings.sizes)


def standard_held_out(
    model: nn.Module, images: Images, *, batch_size: int = 500, processes: Processes = ALONE
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of a classifier over a set of images on its device; in eval mode."""

    def values(x: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        del index
        logits = model(x)
        right = logits.argmax(dim=1) == labels
        return torch.stack([F.cross_entropy(logits, labels, reduction="none"), right], dim=1)

    training = model.training
    model.eval()
    loss, accuracy = mean_over(images, values, figures=2, batch_size=batch_size, processes=processes)
    model.train(training)
    return loss, accuracy
