"""Training a MaskDiT on one data set: masked, then (optionally) unmasked with a smaller rate.

Source: Zheng et al. 2023, arXiv:2306.09305, section 4 and their published settings.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from rp_models import noise
from rp_models.data.batches import BatchPlan
from rp_models.data.datasets import ImageSet
from rp_models.mask import random_mask
from rp_models.maskdit import MaskDiT, log_normal_sigma, masked_denoising_loss
from rp_models.settings import MaskDitSettings
from rp_models.training.averaging import average_, ema_decay
from rp_models.training.loop import Metrics, TrainingState
from rp_models.training.optimizer import set_rate
from rp_models.training.seeding import seeded
from rp_models.zoo import build


class MaskDitTrainer:
    """One MaskDiT, its average, and the step that trains them.

    Attributes:
        model: the denoiser that is trained.
        average: its exponential moving average, which is what one uses.
        state: what training changes.

    Args:
        settings: network and training.
        images: the training images, on the device where the training shall run.
        seed: of weights, batches, noise and masks.
    """

    def __init__(self, settings: MaskDitSettings, images: ImageSet, *, seed: int) -> None:
        self.settings, self.images, self.seed = settings, images, seed
        self.device = images.images.device
        with seeded(seed, "maskdit weights"):
            self.model = build_maskdit(settings).to(self.device).train()
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        self.state = TrainingState({"model": self.model, "average": self.average}, self.optimizer)
        self.plan = BatchPlan(
            real=len(images),
            batch_size=settings.batch_size,
            epoch_images=len(images),
            seed=noise.derive_seed(seed, "maskdit"),
        )

    def step(self, step: int) -> Metrics:
        """One optimiser step; the loss is a mean over values and images."""
        settings = self.settings
        chosen = self.plan.indices(*divmod(step, self.plan.batches_per_epoch)).to(self.device)
        x, labels = self.images.batch(chosen)
        draw = torch.arange(step * len(x), (step + 1) * len(x), device=self.device)
        masked = step < settings.steps - settings.unmasked_steps
        loss = maskdit_loss(
            self.model,
            x,
            self._condition(labels, draw),
            seed=self.seed,
            purpose="maskdit",
            index=draw,
            mask_rate=settings.mask_rate if masked else 0.0,
            mae_weight=settings.mae_weight,
        ).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        lr = settings.lr * min((step + 1) / max(settings.warmup_steps, 1), 1.0)
        lr = lr if masked else settings.unmasked_lr
        set_rate(self.optimizer, lr)
        self.optimizer.step()
        decay = ema_decay(
            (step + 1) * len(x), batch_size=len(x), half_life=settings.ema_half_life, ramp=settings.ema_ramp
        )
        average_(self.average, self.model, decay)
        return {"loss": loss.item(), "lr": lr}

    def _condition(self, labels: Tensor, draw: Tensor) -> Tensor | None:
        """One-hot labels, a share of them dropped; None for an unconditional model."""
        if self.model.num_classes == 0:
            return None
        keep = noise.uniform((1,), seed=self.seed, purpose="maskdit label dropout", index=draw)
        one_hot = functional.one_hot(labels, self.model.num_classes).float()
        return one_hot * (keep >= self.settings.label_dropout)


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
    """MaskDiT's training loss per image, its noise level, noise and mask drawn for each image.

    Args:
        model: the denoiser.
        x: images (b, c, h, w) in [0, 1].
        labels: as in `MaskDiT.forward`.
        seed: of the draws.
        purpose: what the draws are for.
        index: int64 tensor (b,) that numbers the images; each draw belongs to its number.
        mask_rate: share of masked patches; 0 for none.
        mae_weight: of the reconstruction term.

    Returns:
        Tensor (b,).
    """
    level = noise.normal((), seed=seed, purpose=f"{purpose} sigma", index=index)
    unit = noise.normal(x.shape[1:], seed=seed, purpose=f"{purpose} noise", index=index)
    mask = None
    if mask_rate > 0:
        mask = random_mask(noise.uniform((model.tokens,), seed=seed, purpose=f"{purpose} mask", index=index), mask_rate)
    return masked_denoising_loss(
        model, 2.0 * x - 1.0, labels, sigma=log_normal_sigma(level), noise=unit, mask=mask, mae_weight=mae_weight
    )


@torch.no_grad()
def maskdit_held_out(
    model: MaskDiT,
    images: ImageSet,
    *,
    mask_rate: float,
    mae_weight: float,
    seed: int,
    draws: int = 4,
    batch_size: int = 256,
) -> float:
    """The mean training loss over a set of images, some noise levels and masks per image.

    Args:
        model: the denoiser.
        images: e.g. those of the validation split, on the model's device.
        mask_rate: share of masked patches.
        mae_weight: of the reconstruction term.
        seed: of the draws.
        draws: noise levels and masks of each image.
        batch_size: images at a time.
    """
    total = 0.0
    for draw in range(draws):
        for start in range(0, len(images), batch_size):
            x, labels = images.batch(slice(start, start + batch_size))
            index = torch.arange(start, start + len(x), device=x.device)
            total += float(
                maskdit_loss(
                    model,
                    x,
                    labels if model.num_classes else None,
                    seed=seed,
                    purpose=f"maskdit validation {draw}",
                    index=index,
                    mask_rate=mask_rate,
                    mae_weight=mae_weight,
                ).sum()
            )
    return total / len(images) / draws


def build_maskdit(settings: MaskDitSettings) -> MaskDiT:
    """The MaskDiT of these settings, with fresh weights.

    Raises:
        ValueError: if the named network is no MaskDiT.
    """
    model: nn.Module = build(settings.network, **settings.arguments)
    if not isinstance(model, MaskDiT):
        raise ValueError(f"maskdit.network must name a MaskDiT, but {settings.network!r} is another network")
    return model
