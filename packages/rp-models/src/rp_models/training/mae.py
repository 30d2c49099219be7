"""Training a masked autoencoder on one data set. Source: He et al. 2022, arXiv:2111.06377, Appendix A.1."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rp_models import noise
from rp_models.data.augmentation import Augmentation, ResizedCrop
from rp_models.data.images import Images
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import ComputeSettings, MaeSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import Minibatch, Minibatches, in_order
from rp_models.training.optimizer import build_optimizer, decay_groups
from rp_models.training.schedule import cosine
from rp_models.training.seeding import seeded
from rp_models.training.trainer import BaseTrainer
from rp_models.zoo import build


class MaeBatch(NamedTuple):
    """What one step is computed from."""

    images: Tensor  # (b, c, h, w) in [0, 1], augmented
    ranks: Tensor  # uniform draws (b, n); the patches with the smallest stay visible


class MaeTrainer(BaseTrainer):
    """Trains a masked autoencoder; the loss is a mean over hidden values and images. Arguments as of `EdmTrainer`."""

    model: MaskedAutoencoder
    average: MaskedAutoencoder

    def __init__(
        self,
        settings: MaeSettings,
        images: Images,
        *,
        seed: int,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.seed = settings, seed
        batches = Minibatches(
            images,
            settings.batch_size,
            seed=seed,
            purpose="mae",
            augmentation=_augmentation(settings),
            processes=processes,
        )
        with seeded(seed, "mae weights"):
            self.model = build_mae(settings).to(batches.device).train()
        groups = decay_groups(self.model, settings.weight_decay, without_decay=_not_decayed)
        super().__init__(
            {"model": self.model},
            batches,
            build_optimizer(settings.optimizer, groups, lr=settings.lr, betas=(0.9, 0.95)),
            average=MovingAverage(self.model, half_life=settings.ema_half_life) if settings.ema_half_life else None,
            compute=compute,
            processes=processes,
        )

    def rate(self, step: int) -> float:
        """A cosine with warm-up, then (where asked for) a second, lower cosine without one."""
        settings, first = self.settings, self.settings.steps - self.settings.second_steps
        if step < first:
            return cosine(step, steps=first, peak=settings.lr, warmup=settings.warmup_steps)
        return cosine(step - first, steps=settings.second_steps, peak=settings.second_lr)

    def drawn(self, batch: Minibatch, step: int) -> MaeBatch:
        """The images with the draws of their masks."""
        ranks = noise.uniform((self.model.tokens,), seed=self.seed, purpose="mae masks", index=batch.draw)
        return MaeBatch(batch.x, ranks)

    def loss(self, images: Tensor, ranks: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The reconstruction loss."""
        return self.model.loss(images, random_mask(ranks, self.settings.mask_rate)).mean(), {}


def build_mae(settings: MaeSettings) -> MaskedAutoencoder:
    """The masked autoencoder of these settings, with fresh weights.

    Raises ValueError if the named network is no masked autoencoder.
    """
    model = build(settings.network, **settings.sizes)
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"mae.network must name a masked autoencoder, but {settings.network!r} is another network")
    return model


@torch.no_grad()
def mae_loss(model: MaskedAutoencoder, images: Images, *, mask_rate: float, seed: int, batch_size: int = 500) -> float:
    """The mean reconstruction loss over a set of images on the model's device, one mask an image."""
    total = 0.0
    for x, _, index in in_order(images, batch_size):
        values = noise.uniform((model.tokens,), seed=seed, purpose="mae evaluation", index=index)
        total += float(model.loss(x, random_mask(values, mask_rate)).sum())
    return total / len(images)


def _augmentation(settings: MaeSettings) -> Augmentation:
    """What is done to the training images."""
    crop = ResizedCrop(scale=(settings.crop_scale, 1.0)) if settings.crop_scale < 1 else None
    return Augmentation(resized_crop=crop, crop_padding=settings.crop_padding, flip=settings.flip)


def _not_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Biases and norms, as in the public code; the tokens, which are three-dimensional, decay."""
    return parameter.dim() == 1
