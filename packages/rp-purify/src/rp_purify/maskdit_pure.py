"""MaskDiT-Pure: purification by descending the loss of a masked diffusion transformer.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", section 4.2; the loss of Zheng et al. 2023,
arXiv:2306.09305. The paper names neither the noise levels nor whether its "time steps" are levels or iterations;
`sigma` and `schedule` cover the readings.
"""

from collections.abc import Sequence
from typing import get_args

import torch
from rp_models import noise as randomness
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.maskdit_loss import masked_denoising_loss
from rp_models.mask import random_mask
from rp_models.settings import check_choice
from rp_models.values import send
from torch import Tensor

from rp_purify.descent import SignDescent, draw_number
from rp_purify.settings import Freshness, Schedule


class MaskDiTPure(SignDescent):
    """Purifies images with a pixel-space MaskDiT; a robustly fine-tuned one makes this RMaskDiT-Pure.

    Args:
        maskdit: an unconditional model of images scaled to [-1, 1], which is neither changed nor copied.
        step_size: lambda, "1" of 255 in the paper.
        mask_rate: share of masked patches; 0 for the plain denoising loss.
        eta: clipping threshold, see `MAEPure`.
        halve: use half the step size in the second half of the steps.
        sigma: noise level(s) in the units of [-1, 1]; the default is DiffPure's t* = 0.1.
        schedule: "fixed": one level; "grid": each image's level in each step is drawn from those of `sigma`;
            "annealed": from the first level of `sigma` to the last in a geometric sequence over the steps.
        masks: new masks in each step, or one per image for all steps.
        noise: new noise (and grid level) in each step, or one per image for all steps.
        mae_weight: weight of the reconstruction of the masked noisy patches.
    """

    model: MaskDiT

    def __init__(
        self,
        maskdit: MaskDiT,
        *,
        step_size: float = 1 / 255,
        steps: int = 25,
        mask_rate: float = 0.5,
        eta: float | None = 8 / 255,
        halve: bool = False,
        sigma: float | Sequence[float] = 0.34,
        schedule: Schedule = "fixed",
        masks: Freshness = "fresh",
        noise: Freshness = "fresh",
        mae_weight: float = 0.1,
        seed: int | None = None,
        grad: str = "exact",
    ) -> None:
        fresh = masks == "fresh" or noise == "fresh" or schedule == "annealed"
        super().__init__(
            maskdit, step_size=step_size, steps=steps, eta=eta, halve=halve, fresh=fresh, seed=seed, grad=grad
        )
        for freshness in (masks, noise):
            draw_number(freshness, 0)  # complains about other words
        random_mask(torch.zeros(1, maskdit.tokens), mask_rate)  # complains about rates that leave nothing visible
        self.sigmas = _levels(sigma, schedule)
        self.mask_rate, self.schedule, self.masks, self.noise = mask_rate, schedule, masks, noise
        self.mae_weight = mae_weight

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """MaskDiT's training loss of each image (b,), with the step's noise level, noise and mask."""
        number, clean = draw_number(self.noise, step), self.encode(x)
        unit = randomness.normal(clean.shape[1:], seed=seed, purpose=f"noise {number}", index=index, dtype=x.dtype)
        mask = None
        if self.mask_rate > 0:
            purpose = f"mask {draw_number(self.masks, step)}"
            values = randomness.uniform((self.model.tokens,), seed=seed, purpose=purpose, index=index, dtype=x.dtype)
            mask = random_mask(values, self.mask_rate)
        sigma = self.levels(step, seed=seed, index=index).to(x.dtype)
        return masked_denoising_loss(self.model, clean, sigma=sigma, noise=unit, mask=mask, mae_weight=self.mae_weight)

    def encode(self, x: Tensor) -> Tensor:
        """What the model sees of images in [0, 1], here the same in [-1, 1]."""
        return 2 * x - 1

    def levels(self, step: int, *, seed: int, index: Tensor) -> Tensor:
        """The noise level of each image (b,) in one step, float64."""
        table = send(torch.tensor(self.sigmas, dtype=torch.float64), index.device)
        if self.schedule == "grid":
            purpose = f"level {draw_number(self.noise, step)}"
            return table[randomness.integers(len(table), (), seed=seed, purpose=purpose, index=index)]
        share = (step - 1) / max(self.steps - 1, 1)
        return (table[0] * (table[-1] / table[0]) ** share).expand(len(index))


def _levels(sigma: float | Sequence[float], schedule: Schedule) -> tuple[float, ...]:
    """The noise levels as a checked tuple."""
    levels = tuple(sigma) if isinstance(sigma, Sequence) else (float(sigma),)
    check_choice("schedule", schedule, get_args(Schedule))
    if not levels or min(levels) <= 0:
        raise ValueError(f"noise levels must be positive, got {sigma}")
    if (schedule == "fixed") != (len(levels) == 1):
        raise ValueError(
            f"schedule 'fixed' takes one noise level and the others several, got {schedule!r} with {sigma}"
        )
    return levels
