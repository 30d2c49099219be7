"""Training an EDM diffusion model on one data set, class-conditionally or not.

Source: Karras et al. 2022, arXiv:2206.00364, Table 1, Appendix F, and their published trainer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from rp_models import noise
from rp_models.data.images import Images
from rp_models.diffusion.edm_augment import Augmentation
from rp_models.diffusion.edm_loss import EDMLoss
from rp_models.settings import ComputeSettings, EdmSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.loop import Metrics
from rp_models.training.minibatches import Minibatch, mean_over
from rp_models.training.trainer import NetworkTrainer
from rp_models.zoo import build

_AUGMENT_DIM = 9  # augmentation labels of `rp_models.diffusion.edm_augment`


class EdmBatch(NamedTuple):
    """What one step is computed from."""

    images: Tensor  # (b, c, h, w) in [-1, 1], augmented
    labels: Tensor | None  # int64 (b,); None for an unconditional model
    rnd: Tensor  # normal draws (b,), behind the noise levels
    noise: Tensor  # unit normal noise (b, c, h, w)
    augment_labels: Tensor | None  # (b, 9), how the images were augmented; None without augmentation


class EdmTrainer(NetworkTrainer[EdmSettings]):
    """Trains an EDM network; the gradient is that of a sum over values, the loss is logged as a mean over them."""

    purpose = "edm"
    clean_gradients = True

    def __init__(
        self,
        settings: EdmSettings,
        images: Images,
        *,
        seed: int,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__(settings, images, seed=seed, compute=compute, processes=processes)
        self.seed = noise.derive_seed(seed, "edm")  # of the noise, not of the batches
        self.denoising = EDMLoss()
        self.augmentation = Augmentation(p=settings.augment) if settings.augment else None
        self._values = images.info.channels * images.info.image_size**2

    def network(self, images: Images) -> nn.Module:
        """See `build_edm`."""
        return build_edm(self.settings, images)

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.model.parameters(), lr=self.settings.lr, betas=(0.9, 0.999), eps=1e-8)

    def moving_average(self) -> MovingAverage:
        """EDM's average, with its ramp."""
        return MovingAverage(self.model, half_life=self.settings.ema_half_life, ramp=self.settings.ema_ramp)

    def rate(self, step: int) -> float:
        """A linear rise over so many images, then constant."""
        seen = step * self.settings.batch_size
        return self.settings.lr * min(seen / max(self.settings.rampup_images, 1), 1.0)

    def step(self, step: int) -> Metrics:
        """One optimiser step."""
        metrics = super().step(step)
        return {**metrics, "loss": metrics["loss"] / self._values}

    def drawn(self, batch: Minibatch, step: int) -> EdmBatch:
        """The images with their random draws."""
        x, augment_labels = 2.0 * batch.x - 1.0, None
        if self.augmentation is not None:
            x, augment_labels = self.augmentation(x, seed=self.seed, index=batch.draw)
        rnd, unit_noise = self.denoising.draw(x.shape[1:], seed=self.seed, index=batch.draw)
        return EdmBatch(x, batch.labels if self.settings.conditional else None, rnd, unit_noise, augment_labels)

    def loss(
        self, images: Tensor, labels: Tensor | None, rnd: Tensor, unit_noise: Tensor, augment_labels: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over values, the mean over images."""
        values = self.denoising(self.model, images, labels, rnd=rnd, noise=unit_noise, augment_labels=augment_labels)
        return values.sum() / len(images), {}


def build_edm(settings: EdmSettings, images: Images) -> nn.Module:
    """The DDPM++ network of these settings, for this data set's images and classes."""
    return build(
        "edm",
        img_resolution=images.info.image_size,
        img_channels=images.info.channels,
        label_dim=images.info.num_classes if settings.conditional else 0,
        model_type="SongUNet",
        model_channels=settings.model_channels,
        channel_mult=list(settings.channel_mult),
        num_blocks=settings.num_blocks,
        attn_resolutions=list(settings.attn_resolutions),
        dropout=settings.dropout,
        **({"augment_dim": _AUGMENT_DIM} if settings.augment else {}),
    )


def edm_held_out(
    denoiser: nn.Module,
    images: Images,
    *,
    seed: int,
    draws: int = 16,
    batch_size: int = 500,
    processes: Processes = ALONE,
) -> float:
    """EDM's loss of each image at `draws` noise levels, a mean over values, levels and images.

    `batch_size`, and how many processes share the images, change the result by rounding only.
    """
    loss, conditional = EDMLoss(), int(getattr(denoiser, "label_dim", 0)) > 0

    def values(x: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for draw in range(draws):
            own = noise.derive_seed(seed, "validation", draw)
            rnd, unit = loss.draw(x.shape[1:], seed=own, index=index)
            errors = loss(denoiser, 2.0 * x - 1.0, labels if conditional else None, rnd=rnd, noise=unit)
            total += errors.mean(dim=(1, 2, 3)) / draws
        return total

    return mean_over(images, values, batch_size=batch_size, processes=processes)[0]
