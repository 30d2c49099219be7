"""MAE-Pure: purification by descending a masked autoencoder's reconstruction loss.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Algorithm 1, Eq. 2-4.
"""

from collections.abc import Iterator

import torch
from rp_models import noise
from rp_models.mask import Mask, complement, kept_tokens, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from torch import Tensor

from rp_purify.descent import SignDescent, draw_number
from rp_purify.settings import Freshness


class MAEPure(SignDescent):
    """Purifies images with a masked autoencoder; the defaults are those of the paper for CIFAR-10.

    `purifier(x)` draws fresh masks at every call (the same ones with `masks="fixed"`); `purifier(x, seed=, index=)`
    gives the same images at any batch size. A robustly fine-tuned autoencoder makes this RMAE-Pure.

    Args:
        mae: the autoencoder, which is neither changed nor copied.
        step_size: lambda, "1" of 255 in the paper.
        eta: clipping threshold; the paper names none, this is the radius of the attacks that it defends against.
        halve: use half the step size in the second half of the steps.
        masks: new masks in each step, or one per image for all steps.
        masks_per_step: number of masks whose losses are averaged in a step.
        complementary: add to each mask the one that hides the other patches.
    """

    model: MaskedAutoencoder

    def __init__(
        self,
        mae: MaskedAutoencoder,
        *,
        step_size: float = 1 / 255,
        steps: int = 150,
        mask_rate: float = 0.25,
        eta: float | None = 8 / 255,
        halve: bool = True,
        masks: Freshness = "fresh",
        masks_per_step: int = 1,
        complementary: bool = False,
        seed: int | None = None,
        grad: str = "exact",
    ) -> None:
        super().__init__(
            mae, step_size=step_size, steps=steps, eta=eta, halve=halve, fresh=masks == "fresh", seed=seed, grad=grad
        )
        if masks_per_step < 1:
            raise ValueError(f"masks_per_step must be at least 1, got {masks_per_step}")
        if kept_tokens(mae.tokens, mask_rate) == mae.tokens:
            raise ValueError(f"a mask rate of {mask_rate} hides none of {mae.tokens} patches, so there is no loss")
        draw_number(masks, 0)  # complains about other words
        self.mask_rate, self.freshness = mask_rate, masks
        self.masks_per_step, self.complementary = masks_per_step, complementary

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The reconstruction loss of each image (b,): squared error per hidden value, a mean over the step's masks."""
        losses = [self.model.loss(x, mask) for mask in self.masks(x, seed=seed, index=index, step=step)]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean(dim=0)

    def masks(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Iterator[Mask]:
        """The masks of one step."""
        for number in range(self.masks_per_step):
            purpose = f"mask {number} of step {draw_number(self.freshness, step)}"
            values = noise.uniform((self.model.tokens,), seed=seed, purpose=purpose, index=index, dtype=x.dtype)
            mask = random_mask(values, self.mask_rate)
            yield mask
            if self.complementary:
                yield complement(mask)
