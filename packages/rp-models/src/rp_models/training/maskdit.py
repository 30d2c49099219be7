"""Training a MaskDiT on one data set: masked, then (optionally) unmasked with a smaller rate.

Source: Zheng et al. 2023, arXiv:2306.09305, section 4 and their published settings.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rp_models import noise
from rp_models.data.images import Images
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.maskdit_loss import log_normal_sigma, masked_denoising_loss
from rp_models.mask import random_mask
from rp_models.settings import MaskDitSettings
from rp_models.training.averaging import MovingAverage
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import Minibatch, mean_over
from rp_models.training.trainer import NetworkTrainer
from rp_models.zoo import build


class MaskDitBatch(NamedTuple):
    """What one step is computed from."""

    data: Tensor  # (b, c, h, w), images in [-1, 1]
    labels: Tensor | None  # one-hot rows (b, num_classes), zero rows for "no class"; None for an unconditional model
    rnd: Tensor  # normal draws (b,), behind the noise levels
    noise: Tensor  # unit normal noise (b, c, h, w)
    ranks: Tensor | None  # uniform draws (b, n), the patches with the smallest stay visible; None if all do


class MaskDitTrainer(NetworkTrainer[MaskDitSettings]):
    """Trains a MaskDiT; the loss is a mean over values and images."""

    model: MaskDiT
    purpose = "maskdit"

    def network(self, images: Images) -> MaskDiT:
        """See `build_maskdit`."""
        return build_maskdit(self.settings)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over what is trained; fixed positions are not."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.settings.lr, weight_decay=self.settings.weight_decay)

    def moving_average(self) -> MovingAverage:
        """EDM's average, with its ramp."""
        return MovingAverage(self.model, half_life=self.settings.ema_half_life, ramp=self.settings.ema_ramp)

    def rate(self, step: int) -> float:
        """A linear warm-up to a constant; a rate of its own for the unmasked steps at the end."""
        settings = self.settings
        masked = settings.lr * min((step + 1) / max(settings.warmup_steps, 1), 1.0)
        return masked if self._masked(step) else settings.unmasked_lr

    def graph(self, step: int) -> bool:
        """The mask token is used in masked steps alone."""
        return bool(self._masked(step) and self.settings.mask_rate)

    def drawn(self, batch: Minibatch, step: int) -> MaskDitBatch:
        """The images with their random draws; a share of the labels is dropped."""
        rnd, unit_noise, ranks = _draws(
            self.model, batch.x.shape[1:], seed=self.seed, purpose="maskdit", index=batch.draw
        )
        labels = None
        if self.model.num_classes:
            keep = noise.uniform((1,), seed=self.seed, purpose="maskdit label dropout", index=batch.draw)
            one_hot = functional.one_hot(batch.labels, self.model.num_classes).float()
            labels = one_hot * (keep >= self.settings.label_dropout)
        masked = self._masked(step) and self.settings.mask_rate
        return MaskDitBatch(2.0 * batch.x - 1.0, labels, rnd, unit_noise, ranks if masked else None)

    def loss(
        self, data: Tensor, labels: Tensor | None, rnd: Tensor, unit_noise: Tensor, ranks: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The denoising and the reconstruction loss."""
        values = masked_denoising_loss(
            self.model,
            data,
            labels,
            sigma=log_normal_sigma(rnd),
            noise=unit_noise,
            mask=None if ranks is None else random_mask(ranks, self.settings.mask_rate),
            mae_weight=self.settings.mae_weight,
        )
        return values.mean(), {}

    def _masked(self, step: int) -> bool:
        return step < self.settings.steps - self.settings.unmasked_steps


def _draws(
    model: MaskDiT, shape: torch.Size, *, seed: int, purpose: str, index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Normal draws behind the noise levels (b,), unit noise (b, *shape) and the patches' ranks (b, n)."""
    rnd = noise.normal((), seed=seed, purpose=f"{purpose} sigma", index=index)
    unit_noise = noise.normal(shape, seed=seed, purpose=f"{purpose} noise", index=index)
    return rnd, unit_noise, noise.uniform((model.tokens,), seed=seed, purpose=f"{purpose} mask", index=index)


def maskdit_loss(
    model: MaskDiT,
    x: Tensor,
    labels: Tensor | None,
    *,
    seed: int,
    purpose: str,
    index: Tensor,
    mask_rate: float,
    mae_weight: float,
) -> Tensor:
    """MaskDiT's training loss (b,) of images in [0, 1], noise level, noise and mask drawn for each.

    The draws belong to (seed, purpose, number of the image in `index`); a mask rate of 0 hides nothing.
    """
    rnd, unit_noise, ranks = _draws(model, x.shape[1:], seed=seed, purpose=purpose, index=index)
    mask = random_mask(ranks, mask_rate) if mask_rate > 0 else None
    return masked_denoising_loss(
        model, 2.0 * x - 1.0, labels, sigma=log_normal_sigma(rnd), noise=unit_noise, mask=mask, mae_weight=mae_weight
    )


def maskdit_held_out(
    model: MaskDiT,
    images: Images,
    *,
    mask_rate: float,
    mae_weight: float,
    seed: int,
    draws: int = 4,
    batch_size: int = 256,
    processes: Processes = ALONE,
) -> float:
    """The mean training loss over images on the model's device, with `draws` noise levels and masks an image."""

    def values(x: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        losses = [
            maskdit_loss(
                model,
                x,
                labels if model.num_classes else None,
                seed=seed,
                purpose=f"maskdit validation {draw}",
                index=index,
                mask_rate=mask_rate,
                mae_weight=mae_weight,
            )
            for draw in range(draws)
        ]
        return torch.stack(losses).mean(dim=0)

    return mean_over(images, values, batch_size=batch_size, processes=processes)[0]


def build_maskdit(settings: MaskDitSettings) -> MaskDiT:
    """The MaskDiT of these settings, with fresh weights. Raises ValueError if the named network is no MaskDiT."""
    model: nn.Module = build(settings.network, **settings.arguments)
    if not isinstance(model, MaskDiT):
        raise ValueError(f"maskdit.network must name a MaskDiT, but {settings.network!r} is another network")
    return model
