"""Purifiers of one forward pass: none, noise, masked reconstruction, and noise with one denoising step.

They are the baselines of the iterative ones, and the one-shot forms through which a purifier is robustly fine-tuned.
"""

from collections.abc import Callable

import torch
from rp_models import noise
from rp_models.mask import complement, kept_tokens, random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.networks.transformer import unpatchify
from rp_models.settings import within
from torch import Tensor, nn

from rp_purify.gradient import clip_to_image
from rp_purify.purifier import Purifier

Denoiser = Callable[..., Tensor]
"""`denoiser(x, sigma)`: an estimate of the clean image in x, in the units of [-1, 1]; EDM networks and MaskDiT are."""


class NoPurification(Purifier):
    """The images as they are: the undefended row of a table."""

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The images themselves."""
        return x


class GaussianNoise(Purifier):
    """Adds Gaussian noise, clipped to [0, 1]: what randomness does alone.

    Args:
        std: standard deviation in pixel units of [0, 1].
    """

    def __init__(self, std: float, *, seed: int | None = None, fresh: bool = True, grad: str = "exact") -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.std = std
        within(self, std="not negative")

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The noisy images."""
        return clip_to_image(x + self.std * _normal(x, seed, index))


class MAEReconstruction(Purifier):
    """Replaces images by a masked autoencoder's reconstruction, each patch predicted while it is hidden.

    The patches that a random mask hides come from one pass, the others from a second pass with the complementary mask;
    so every pixel is the model's. Source: the use of MAE in NIM-MAE, You et al. 2023, arXiv:2302.01056.

    Args:
        mask_rate: share of patches hidden in the first pass.
        std: of Gaussian noise added before, in pixel units of [0, 1]; fair only to a model trained with noise.
        keep_visible: keep the patches that the first pass sees, instead of a second pass.
    """

    def __init__(
        self,
        mae: MaskedAutoencoder,
        *,
        mask_rate: float = 0.5,
        std: float = 0.0,
        keep_visible: bool = False,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        if kept_tokens(mae.tokens, mask_rate) == mae.tokens:
            raise ValueError(f"a mask rate of {mask_rate} hides none of {mae.tokens} patches")
        self.model, self.mask_rate, self.std, self.keep_visible = mae, mask_rate, std, keep_visible
        within(self, std="not negative")

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The reconstructed images."""
        if self.std > 0:
            x = x + self.std * _normal(x, seed, index)
        values = noise.uniform((self.model.tokens,), seed=seed, purpose="mask", index=index, dtype=x.dtype)
        mask = random_mask(values, self.mask_rate)
        first = self.model.reconstruct(x, mask)
        if self.keep_visible:
            return clip_to_image(first)
        size = self.model.patch_size**2 * x.shape[1]
        hidden_first = unpatchify(mask.mask[:, :, None].expand(-1, -1, size), self.model.patch_size) > 0
        return clip_to_image(torch.where(hidden_first, first, self.model.reconstruct(x, complement(mask))))


class OneStepDenoise(Purifier):
    """Adds noise of one level and denoises it in one step: D(2x - 1 + sigma n; sigma).

    Source: Carlini et al. 2022, arXiv:2206.10550; preconditioning of Karras et al. 2022, arXiv:2206.00364.

    Args:
        denoiser: an unconditional denoiser D of images in [-1, 1] (a conditional one is called without a class).
        sigma: noise level in the units of [-1, 1], twice that of [0, 1]; the default is DiffPure's t* = 0.1.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        *,
        sigma: float = 0.34,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model, self.sigma = denoiser, sigma
        within(self, sigma="positive")

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The denoised images."""
        noisy = 2 * x - 1 + self.sigma * _normal(x, seed, index)
        level = torch.full((len(x),), self.sigma, device=x.device, dtype=x.dtype)
        return clip_to_image((self.model(noisy, level).to(x.dtype) + 1) / 2)


def _normal(x: Tensor, seed: int, index: Tensor) -> Tensor:
    """Unit normal noise like the images, one draw per image."""
    return noise.normal(x.shape[1:], seed=seed, purpose="noise", index=index, dtype=x.dtype)
