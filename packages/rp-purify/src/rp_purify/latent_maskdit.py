"""MaskDiT-Pure with the released ImageNet MaskDiT, which models an autoencoder's latents and not pixels.

The paper of MAE-Pure says "patch size 16x16, other parameters the same as the original" of ImageNet, which fits the
latent model: two latent pixels are sixteen image pixels. How its steps are taken is left open; there are three
readings, of which the first keeps the meaning of step size and radius.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", section 4.2; Zheng et al. 2023, arXiv:2306.09305.
"""

from typing import Any

import torch
from rp_models import noise
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.networks.vae import AutoencoderKL
from rp_models.settings import within
from torch import Tensor

from rp_purify.gradient import clip_to_ball, clip_to_image
from rp_purify.maskdit_pure import MaskDiTPure
from rp_purify.purifier import Purifier, frozen
from rp_purify.resized import resized
from rp_purify.reverse import denoise

SCALE = 0.18215
"""What SD-VAE's latents are multiplied with, so that they have about unit variance."""


class Latents:
    """The way from images to the model's latents and back.

    Args:
        autoencoder: images in [0, 1] to latents and back.
        size: of the images that it is given; others are resized, and back.
        scale: factor on the latents.
    """

    def __init__(self, autoencoder: AutoencoderKL, size: int, scale: float = SCALE) -> None:
        if size % autoencoder.factor:
            raise ValueError(f"the autoencoder takes sides that are multiples of {autoencoder.factor}, got {size}")
        self.autoencoder, self.size, self.scale = autoencoder, size, scale

    def encode(self, x: Tensor) -> Tensor:
        """The scaled posterior means of images in [0, 1] of any size."""
        return self.scale * self.autoencoder.encode(resized(x, self.size)).mean

    def decode(self, z: Tensor, size: int) -> Tensor:
        """Images of that size, not limited."""
        return resized(self.autoencoder.decode(z / self.scale), size)


class LatentMaskDiTPure(MaskDiTPure):
    """Sign steps on the pixels, along the gradient of a latent MaskDiT's loss through the encoder (first reading).

    Args:
        maskdit: a model of the autoencoder's latents, asked without a class.
        autoencoder: see `Latents`.
        chunk: differentiate so many images at a time, since the encoder's memory dominates; None for all.
        scale: factor on the latents.
        others: see `MaskDiTPure`; the defaults are the paper's for ImageNet, sigma is in the units of the latents.
    """

    def __init__(
        self,
        maskdit: MaskDiT,
        autoencoder: AutoencoderKL,
        *,
        step_size: float = 1 / 255,
        steps: int = 25,
        mask_rate: float = 0.3,
        eta: float | None = 4 / 255,
        chunk: int | None = None,
        scale: float = SCALE,
        **options: Any,
    ) -> None:
        super().__init__(maskdit, step_size=step_size, steps=steps, mask_rate=mask_rate, eta=eta, **options)
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        self.autoencoder, self.chunk, self.scale = autoencoder.eval(), chunk, scale
        self._latents = checked_latents(maskdit, autoencoder, scale)

    def encode(self, x: Tensor) -> Tensor:
        """The latents of images in [0, 1]."""
        return self._latents.encode(x)

    def loss_gradient(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The gradient of each image's loss in that image, some images at a time."""
        with frozen(self):
            parts = [
                super(LatentMaskDiTPure, self).loss_gradient(some, seed=seed, index=numbers, step=step)
                for some, numbers in zip(x.split(self.chunk or len(x)), index.split(self.chunk or len(x)), strict=True)
            ]
        return torch.cat(parts)


class LatentSteps(Purifier):
    """Sign steps on the latents themselves, z <- z - step_size sign dL/dz, then decoded (second and third reading).

    Only "identity" is offered as backward rule: the steps have no other derivative, and the autoencoder's is that of
    nearly the identity.

    Args:
        maskdit, autoencoder, scale: see `LatentMaskDiTPure`.
        step_size: in the units of the scaled latents; no paper names one.
        eta: None for decode(z_S), which loses what the autoencoder loses; else the image plus the decoded change,
            decode(z_S) - decode(z_0), clipped to this radius in [0, 1] pixels.
        options: further arguments of `MaskDiTPure`.
    """

    gradients = ("identity",)
    model: MaskDiT

    def __init__(
        self,
        maskdit: MaskDiT,
        autoencoder: AutoencoderKL,
        *,
        step_size: float = 0.02,
        steps: int = 25,
        mask_rate: float = 0.3,
        eta: float | None = None,
        scale: float = SCALE,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(seed=seed, grad="identity")
        self.model, self.autoencoder, self.eta, self.scale = maskdit, autoencoder.eval(), eta, scale
        self._latents = checked_latents(maskdit, autoencoder, scale)
        self.step_size, self.steps, self.mask_rate = step_size, steps, mask_rate
        self.options = tuple(sorted(options.items()))
        _ = self.descent  # complains about options out of range

    @property
    def descent(self) -> "_OnLatents":
        """The loss of latents."""
        own: dict[str, Any] = {"step_size": self.step_size, "steps": self.steps, "mask_rate": self.mask_rate}
        return _OnLatents(self.model, eta=None, **own, **dict(self.options))

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The decoded images."""
        descent = self.descent
        with torch.no_grad(), frozen(self):
            start = z = self._latents.encode(x)
            for step in range(1, self.steps + 1):
                z = z - descent.rate(step) * descent.loss_gradient(z, seed=seed, index=index, step=step).sign()
            if self.eta is None:
                return clip_to_image(self._latents.decode(z, x.shape[2]))
            change = self._latents.decode(z, x.shape[2]) - self._latents.decode(start, x.shape[2])
            return clip_to_image(clip_to_ball(x + change, x, self.eta))


class _OnLatents(MaskDiTPure):
    """The loss and the gradient of latents."""

    def encode(self, x: Tensor) -> Tensor:
        """The latents themselves."""
        return x


class LatentOneStep(Purifier):
    """Noise on the latents and one denoising step, decoded: the one-shot form that RMaskDiT is fine-tuned through.

    Args:
        denoiser, autoencoder, scale: see `LatentMaskDiTPure`.
        sigma: noise level in the units of the latents.
        change: add decode(D) - decode(z) to the image, which keeps what the autoencoder loses; False: decode(D).
    """

    def __init__(
        self,
        denoiser: MaskDiT,
        autoencoder: AutoencoderKL,
        *,
        sigma: float = 0.34,
        change: bool = True,
        scale: float = SCALE,
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        super().__init__(seed=seed, fresh=fresh, grad=grad)
        self.model, self.autoencoder, self.sigma, self.change = denoiser, autoencoder.eval(), sigma, change
        within(self, sigma="positive")
        self.scale = scale
        self._latents = checked_latents(denoiser, autoencoder, scale)

    def differentiable(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The decoded images."""
        z = self._latents.encode(x)
        unit = noise.normal(z.shape[1:], seed=seed, purpose="noise", index=index, dtype=z.dtype)
        decoded = self._latents.decode(denoise(self.model, z + self.sigma * unit, self.sigma), x.shape[2])
        return clip_to_image(x + decoded - self._latents.decode(z, x.shape[2]) if self.change else decoded)


def checked_latents(maskdit: MaskDiT, autoencoder: AutoencoderKL, scale: float) -> Latents:
    """The autoencoder's latents in the size of the model, or a ValueError that says why they do not fit."""
    if maskdit.in_channels != autoencoder.latent_channels:
        raise ValueError(
            f"the MaskDiT models {maskdit.in_channels} channels and the autoencoder has {autoencoder.latent_channels}"
        )
    return Latents(autoencoder, maskdit.image_size * autoencoder.factor, scale)
