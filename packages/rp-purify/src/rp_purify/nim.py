"""Noisy image modelling: a masked autoencoder that denoises whole images instead of filling in patches.

Source: You et al. 2023, "Beyond Pretrained Features: Noisy Image Modeling Provides Adversarial Defense",
arXiv:2302.01056, and its public code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from rp_models import noise
from rp_models.mask import Mask, random_mask
from rp_models.networks.mae import MaskedAutoencoder, patch_statistics
from rp_models.networks.transformer import patchify, unpatchify
from rp_models.settings import within
from torch import Tensor

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier

PatchStatistics = Literal["input", "none"]


class NIMReconstruction(Purifier):
    """Adds noise and replaces every patch by the autoencoder's prediction of it, in one pass.

    With `mask_rate` 0.75 and `std` 0.25 this is the nearest that there is to DMAE (Wu et al. 2023, arXiv:2210.06983)
    as a purifier; its authors certify a classifier by randomised smoothing and purify nothing.

    Args:
        mae: an autoencoder trained to predict all patches of clean images from noisy ones.
        std: of the noise in [0, 1] pixel units; 70/255 or 140/255 in the paper.
        mask_rate: share of patches hidden from the encoder; 0 for NIM.
        patch_stats: of an autoencoder that predicts standardised patches, where their mean and deviation come from:
            "input", the image that came in, so that an attack's low frequencies pass through (as published); "none"
            for one that predicts pixels. None: as the autoencoder needs it.

    Raises:
        ValueError: for a setting out of range, or statistics that do not suit the autoencoder.
    """

    def __init__(
        self,
        mae: MaskedAutoencoder,
        *,
        std: float = 70 / 255,
        mask_rate: float = 0.0,
        patch_stats: PatchStatistics | None = None,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model, self.std, self.mask_rate = mae, std, mask_rate
        within(self, std="not negative")
        random_mask(torch.zeros(1, mae.tokens), mask_rate)  # complains about rates that leave nothing visible
        needed: PatchStatistics = "input" if mae.norm_pix else "none"
        if patch_stats not in (None, *get_args(PatchStatistics)) or (patch_stats or needed) != needed:
            raise ValueError(
                f"this autoencoder predicts {'standardised patches' if mae.norm_pix else 'pixels'}, which needs "
                f"patch_stats={needed!r}, got {patch_stats!r}"
            )
        self.patch_stats = needed

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The reconstructed images."""
        unit = noise.normal(x.shape[1:], seed=seed, purpose="noise", index=index, dtype=x.dtype)
        mask = visible(len(x), self.model.tokens, x)
        if self.mask_rate > 0:
            values = noise.uniform((self.model.tokens,), seed=seed, purpose="mask", index=index, dtype=x.dtype)
            mask = random_mask(values, self.mask_rate)
        return clip_to_image(self.reconstruct(x, x + self.std * unit, mask))

    def reconstruct(self, x: Tensor, noisy: Tensor, mask: Mask) -> Tensor:
        """The images that the autoencoder predicts from noisy ones, with the patch statistics of `x`; not limited."""
        patches = self.model(noisy, mask)
        if self.patch_stats == "input":
            mean, deviation = patch_statistics(patchify(self.model.normalize(x), self.model.patch_size))
            patches = patches * deviation + mean
        return self.model.normalize.invert(unpatchify(patches, self.model.patch_size))


class NIMDraws(NamedTuple):
    """The random numbers of one batch: the noise's standard deviations (b,) in [0, 1] units, and unit normals."""

    sigma: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class NIMLoss:
    """The squared error of the predicted clean patches, all of them; levels are Gamma-distributed, or one for all.

    Attributes:
        shape: of the Gamma distribution, a whole number.
        scale: of it, in [0, 1] pixel units; the mean is shape times scale.
        std: the one level of all images, in [0, 1] pixel units, as in DMAE (0.25); None for the distribution.
    """

    shape: int = 25
    scale: float = 3 / 255
    std: float | None = None

    def __post_init__(self) -> None:
        if self.shape < 1 or self.shape != int(self.shape) or self.scale <= 0:
            raise ValueError(f"expected a whole shape of at least 1 and a positive scale, got {self}")
        if self.std is not None and self.std <= 0:
            raise ValueError(f"std must be positive, or None for levels of the Gamma distribution, got {self.std}")

    @property
    def level(self) -> float:
        """The mean level, in [0, 1] pixel units."""
        return self.shape * self.scale if self.std is None else self.std

    def draw(self, shape: Sequence[int], *, seed: int, index: Tensor) -> NIMDraws:
        """The random numbers of a batch of images of that shape, by (seed, index of each draw)."""
        return NIMDraws(
            self.sigma(seed=seed, index=index), noise.normal(shape, seed=seed, purpose="nim noise", index=index)
        )

    def sigma(self, *, seed: int, index: Tensor) -> Tensor:
        """The level of each image (b,)."""
        if self.std is not None:
            return torch.full(index.shape, self.std, device=index.device)
        uniform = noise.uniform((int(self.shape),), seed=seed, purpose="nim level", index=index, dtype=torch.float64)
        return (-self.scale * (1 - uniform).log().sum(dim=1)).float()  # a sum of exponential draws

    def __call__(self, mae: MaskedAutoencoder, x: Tensor, draws: NIMDraws, mask: Mask | None = None) -> Tensor:
        """The loss (b,) of images in [0, 1]; `mask` hides patches from the encoder as well, None hides none."""
        noisy = x + draws.sigma.view(-1, 1, 1, 1) * draws.noise
        seen = visible(len(x), mae.tokens, x) if mask is None else mask
        return (mae(noisy, seen) - mae.target(x)).square().mean(dim=(1, 2))


def visible(batch: int, tokens: int, like: Tensor) -> Mask:
    """The mask that hides nothing and keeps the order."""
    order = torch.arange(tokens, device=like.device).expand(batch, -1)
    return Mask(like.new_zeros(batch, tokens), order, order)
