"""How a masked model looks at images: its loss and its decoder's attention, under masks that belong to the images.

A view fixes everything random (masks, noise) per image, so that clean, adversarial and purified images are compared
under the same mask. Axes: b images, h heads, n tokens; images are (b, c, h, w).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from rp_models import noise
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.maskdit_loss import masked_denoising_loss
from rp_models.mask import Mask, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from torch import Tensor


class Seen(NamedTuple):
    """What a view sees in images: the loss (b,) and the decoder's attention, one (b, h, n, n) a layer."""

    loss: Tensor
    attention: list[Tensor]


class View(Protocol):
    """A masked model that looks at images with the mask (and noise) that belongs to each image's index."""

    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """Loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class MAEView:
    """Looks at images with a masked autoencoder; the paper's figures have a mask rate of 0.5."""

    model: MaskedAutoencoder
    mask_rate: float = 0.5
    seed: int = 0

    def mask(self, index: Tensor) -> Mask:
        """The masks of these images."""
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="amv mask", index=index)
        return random_mask(values, self.mask_rate)

    @torch.no_grad()
    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """Reconstruction loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        mask = self.mask(index)
        return Seen(self.model.loss(x, mask), self.model.attention_maps(x, mask, part="decoder"))

    @torch.no_grad()
    def reconstruction(self, x: Tensor, index: Tensor) -> Tensor:
        """The images (b, c, h, w), hidden patches predicted and the others kept, limited to [0, 1]."""
        return self.model.reconstruct(x, self.mask(index)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class MaskDiTView:
    """Looks at images with a pixel-space MaskDiT at one noise level."""

    model: MaskDiT
    sigma: float = 0.34  # noise level in the units of [-1, 1]
    mask_rate: float = 0.5
    seed: int = 0

    @torch.no_grad()
    def __call__(self, x: Tensor, index: Tensor) -> Seen:
        """MaskDiT's training loss and decoder attention of images (b, c, h, w) in [0, 1] with indices (b,)."""
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="amv mask", index=index)
        mask = random_mask(values, self.mask_rate)
        unit = noise.normal(x.shape[1:], seed=self.seed, purpose="amv noise", index=index, dtype=x.dtype)
        sigma = torch.full((len(x),), self.sigma, device=x.device, dtype=x.dtype)
        loss = masked_denoising_loss(self.model, 2 * x - 1, sigma=sigma, noise=unit, mask=mask)
        noisy = 2 * x - 1 + self.sigma * unit
        return Seen(loss, self.model.attention_maps(noisy, sigma, mask=mask, part="decoder"))
