"""Samplers of diffusion models with one interface, `ImageSampler`: numbers and labels to images.

`sampler_of` finds the one that fits a model. Image i of a seed depends on (seed, i, label) alone; `sampling` says how
far that holds when images are made in batches.

Axes: b batch, c channels, h w image or latent.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from rp_models import noise
from rp_models.diffusion.heun import sample_heun, to_uint8
from rp_models.diffusion.maskdit import GuidedMaskDiT, MaskDiT
from rp_models.diffusion.precondition import Precond
from rp_models.diffusion.sampler_settings import FlowSettings, HeunSettings
from rp_models.diffusion.transport import Guidance, Velocity, sample_euler
from rp_models.networks.lightningdit import LightningDiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization

Shape = tuple[int, int, int]  # c, h, w


class ImageSampler(Protocol):
    """Images by their numbers."""

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of an image."""

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 for an unconditional model."""

    def __call__(self, index: Tensor, labels: Tensor | None, *, seed: int) -> Tensor:
        """The images of some numbers, uint8 (b, c, h, w), on the device of `index`.

        Args:
            index: int64 (b,), the images' numbers, on the model's device.
            labels: int64 (b,), their classes; None for "no class".
            seed: image i is made from the noise that belongs to (seed, i).
        """


class LatentDecoder(nn.Module):
    """From a diffusion model's normalised latents to images."""

    def __init__(self, vae: AutoencoderKL, normalization: LatentNormalization) -> None:
        super().__init__()
        channels = normalization.mean.shape[1]
        if channels != vae.latent_channels:
            raise ValueError(f"the normalisation is for {channels} latent channels, the VAE has {vae.latent_channels}")
        self.vae, self.normalization = vae, normalization

    def forward(self, z: Tensor) -> Tensor:
        """Images (b, c, h f, w f), about in [0, 1], of normalised latents (b, z, h, w)."""
        return self.vae.decode(self.normalization.inverse(z))

    def image_shape(self, latent: Shape) -> Shape:
        """The shape of the images of latents of a shape.

        Raises:
            ValueError: if the autoencoder has latents of other channels.
        """
        channels, height, width = latent
        if channels != self.vae.latent_channels:
            raise ValueError(
                f"the model makes latents of {channels} channels, the VAE decodes {self.vae.latent_channels}"
            )
        return self.vae.in_channels, height * self.vae.factor, width * self.vae.factor


@dataclass(frozen=True)
class HeunSampler:
    """EDM's sampler as an `ImageSampler`.

    Attributes:
        denoiser: D(x, sigma, class_labels), in eval mode.
        shape: (c, h, w) of what it denoises.
        num_classes: that it knows.
        settings: of the sampler; `guidance` needs a MaskDiT.
        decoder: for a model of latents; None if it makes images in [-1, 1].

    Source: Algorithm 2 of Karras et al. 2022, arXiv:2206.00364; one generator an image as in their published script.
    """

    denoiser: nn.Module
    shape: Shape
    num_classes: int = 0
    settings: HeunSettings = field(default_factory=HeunSettings)
    decoder: LatentDecoder | None = None

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of an image."""
        return self.decoder.image_shape(self.shape) if self.decoder else self.shape

    @torch.no_grad()
    def __call__(self, index: Tensor, labels: Tensor | None, *, seed: int) -> Tensor:
        """The images of some numbers; see `ImageSampler`."""
        s, denoiser = self.settings, self.denoiser
        if s.guidance != 1 and labels is not None:
            if not isinstance(denoiser, MaskDiT):
                raise ValueError("class guidance needs a MaskDiT; an EDM model was not trained without its labels")
            denoiser = GuidedMaskDiT(denoiser, s.guidance)
        x = sample_heun(
            denoiser,
            noise.normal(self.shape, seed=seed, purpose="latents", index=index),
            class_labels=labels,
            num_steps=s.steps,
            sigma_min=s.sigma_min,
            sigma_max=s.sigma_max,
            rho=s.rho,
            S_churn=s.S_churn,
            S_min=s.S_min,
            S_max=math.inf if s.S_max is None else s.S_max,
            S_noise=s.S_noise,
            noise=lambda step: noise.normal(self.shape, seed=seed, purpose=f"churn {step}", index=index),
        )
        return _as_bytes(x, self.decoder)


@dataclass(frozen=True)
class FlowSampler:
    """LightningDiT's sampler as an `ImageSampler`.

    Attributes:
        model: in eval mode.
        settings: of the sampler.
        decoder: for a model of latents; None if it makes images in [-1, 1].

    Source: Yao et al. 2025, arXiv:2501.01423.
    """

    model: LightningDiT
    settings: FlowSettings = field(default_factory=FlowSettings)
    decoder: LatentDecoder | None = None

    @property
    def shape(self) -> Shape:
        """Channels, height and width of a latent."""
        size = self.model.x_embedder.grid * self.model.patch_size
        return self.model.in_channels, size, size

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of an image."""
        return self.decoder.image_shape(self.shape) if self.decoder else self.shape

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.model.num_classes

    @torch.no_grad()
    def __call__(self, index: Tensor, labels: Tensor | None, *, seed: int) -> Tensor:
        """The images of some numbers; see `ImageSampler`."""
        s = self.settings
        latents = noise.normal(self.shape, seed=seed, purpose="latents", index=index)

        def velocity(x: Tensor, t: float, /) -> Tensor:
            return self.model(x, t, labels)

        flow: Velocity = velocity
        if s.guidance != 1 and labels is not None:
            flow = Guidance(self.model, labels, s.guidance, s.start, s.channels)
        return _as_bytes(sample_euler(flow, latents, num_steps=s.points, shift=s.shift), self.decoder)


def sampler_of(
    model: nn.Module,
    *,
    heun: HeunSettings | None = None,
    flow: FlowSettings | None = None,
    decoder: LatentDecoder | None = None,
) -> ImageSampler:
    """The sampler that fits a model: Heun's for EDM and MaskDiT, Euler's for LightningDiT; a decoder for latents.

    Raises:
        TypeError: if the model is none of these.
        ValueError: if model, settings and decoder do not fit together.
    """
    heun, flow = heun or HeunSettings(), flow or FlowSettings()
    sampler: HeunSampler | FlowSampler
    if isinstance(model, LightningDiT):
        sampler, guidance = FlowSampler(model, flow, decoder), flow.guidance
        if guidance != 1 and model.class_dropout_prob == 0:
            raise ValueError("guidance needs a model with a null class (class_dropout_prob above 0)")
    elif isinstance(model, MaskDiT):
        shape, guidance = (model.in_channels, model.image_size, model.image_size), heun.guidance
        sampler = HeunSampler(model, shape, model.num_classes, heun, decoder)
    elif isinstance(model, Precond):
        shape, guidance = (model.img_channels, model.img_resolution, model.img_resolution), heun.guidance
        sampler = HeunSampler(model, shape, model.label_dim, heun, decoder)
        if guidance != 1:
            raise ValueError("EDM's models are not trained without their labels and know no guidance; leave it at 1")
    else:
        raise TypeError(f"expected an EDM model, a MaskDiT or a LightningDiT, got a {type(model).__name__}")
    if guidance != 1 and sampler.num_classes == 0:
        raise ValueError("guidance needs a class-conditional model; this one knows no classes")
    if sampler.image_shape[0] not in (1, 3):
        raise ValueError(f"the model makes latents of {sampler.image_shape[0]} channels; it needs its VAE as decoder")
    return sampler


def _as_bytes(x: Tensor, decoder: LatentDecoder | None) -> Tensor:
    """Images in [-1, 1], or latents, as bytes."""
    if decoder is None:
        return to_uint8(x)
    # Deviation: MaskDiT's script truncates 127.5 (x + 1), the others' 127.5 x + 128, which is used for all
    return to_uint8(2 * decoder(x.float()).float() - 1)
