"""Features of latent diffusion transformers: LightningDiT, the target on ImageNet, and SiT trained with REPA."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from rp_attacks.clamping import clamp
from rp_models.diffusion.transport import interpolate, logit_normal_time
from rp_models.networks.lightningdit import MASSIVE_CHANNELS, LightningDiT
from rp_models.networks.sit import SiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from rp_models.settings import check_choice
from torch import Tensor
from torch.nn import functional as F

from rp_dra.targets.target import FrozenTarget, Label, Precision

Latent = Literal["mean", "sample"]
NoiseIn = Literal["latent", "pixels", "none"]


class LatentTarget(FrozenTarget):
    """Features of a frozen transformer of noisy latents; a subclass says how it mixes, and takes the features.

    The image is scaled and cropped to the autoencoder's size, encoded, normalised by the latents' statistics and mixed
    with noise.

    Args:
        transformer: frozen, like the other two.
        autoencoder: of which only the encoder runs.
        t: time, 0 for noise and 1 for data, whatever the transformer's own convention.
        blocks: of the transformer that are run.
        latent: "mean" of the autoencoder's posterior, or a "sample", as in the transformers' training.
        noise_in: the "latent", as in their training; the "pixels" of the image before it is encoded, whose deviation in
            [-1, 1] is the latent's over its signal, (1 - t) / t; or "none". The transformer is told t in each case.
        label: "class" conditions on the label, "null" on the class that stands for none.
        random_level: give a second representation of each image at a random time (see `represent`).
    """

    transformer: LightningDiT | SiT

    def __init__(
        self,
        transformer: LightningDiT | SiT,
        autoencoder: AutoencoderKL,
        normalization: LatentNormalization,
        *,
        t: float = 0.8,
        blocks: int = 14,
        latent: Latent = "mean",
        noise_in: NoiseIn = "latent",
        label: Label = "class",
        random_level: bool = False,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__(label=label, precision=precision, random_level=random_level)
        channels = (transformer.x_embedder.in_channels, autoencoder.latent_channels, normalization.mean.shape[1])
        if len(set(channels)) != 1:
            raise ValueError(
                "transformer, autoencoder and normalisation must have the same latent channels, got "
                + ", ".join(map(str, channels))
            )
        if not 0 < t <= 1:
            raise ValueError(f"t must be in (0, 1], 1 for data, got {t}")
        for name, value, kinds in (("latent", latent, Latent), ("noise_in", noise_in, NoiseIn)):
            check_choice(name, value, get_args(kinds))
        self.transformer, self.autoencoder, self.normalization = transformer, autoencoder, normalization
        self.eval().requires_grad_(False)
        self.t, self.blocks, self.latent, self.noise_in = t, blocks, latent, noise_in

    @property
    def image_size(self) -> int:
        """Height and width of the images that the autoencoder is given: 256 for the released models."""
        return self._latent_size * self.autoencoder.factor

    @property
    def latent_channels(self) -> int:
        """The latent's channels."""
        return self.autoencoder.latent_channels

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """What is drawn for an image: the noise of its latent or pixels, and of the posterior where that is sampled.

        Both as channels of the latent's size, a channel of pixels as factor^2 of them.
        """
        pixels = self.autoencoder.in_channels * self.autoencoder.factor**2
        channels = pixels if self.noise_in == "pixels" else self.latent_channels
        sampled = self.latent_channels if self.latent == "sample" else 0
        return (channels + sampled, self._latent_size, self._latent_size)

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d: the transformer's width."""
        return int(self.transformer.pos_embed.shape[2])

    @property
    def _latent_size(self) -> int:
        return self.transformer.x_embedder.grid * self.transformer.patch_size

    def _latent(self, x: Tensor, noise: Tensor, t: Tensor | float) -> Tensor:
        """The latents of images (b, 3, h, w) at time t (b,), in which 1 is data."""
        x = fit_image(x, self.image_size)
        if x.shape[1] == 1:  # grey, in three channels
            x = x.expand(-1, self.autoencoder.in_channels, -1, -1)
        own = noise.shape[1] - (self.latent_channels if self.latent == "sample" else 0)
        added, draw = noise[:, :own], noise[:, own:]
        if self.noise_in == "pixels":
            level = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
            x = x + 0.5 * (1.0 - level) / level * F.pixel_shuffle(added, self.autoencoder.factor)
        posterior = self.autoencoder.encode(x)
        z = posterior.mean if self.latent == "mean" else posterior.sample(draw)
        z = self.normalization(z.to(torch.float32))
        return interpolate(z, added, t) if self.noise_in == "latent" else z


class LightningDitTarget(LatentTarget):
    """Features of a frozen LightningDiT: a noisy latent, x_t = t z + (1 - t) noise, after its first blocks.

    In the residual stream after 14 blocks the two massive channels are set to zero; then come the norm and the
    modulation of the block that would be next, and the average over tokens. The paper names layer, time and channels;
    everything else is left open there, and these defaults are this project's reading.

    Args:
        transformer, autoencoder, normalization, options: see `LatentTarget`; VA-VAE is the autoencoder.
        zero_channels: the massive channels of this checkpoint.
        modulated_by: whose norm and modulation is applied, see `LightningDiT.features`.
        zero_at: whether the channels are zeroed before the norm or after it.

    Source: Appendix D of the DRA paper; Yao et al. 2025, arXiv:2501.01423.
    """

    transformer: LightningDiT

    def __init__(
        self,
        transformer: LightningDiT,
        autoencoder: AutoencoderKL,
        normalization: LatentNormalization,
        *,
        zero_channels: Sequence[int] = MASSIVE_CHANNELS,
        modulated_by: Literal["next", "same"] | None = "next",
        zero_at: Literal["before_norm", "after_norm"] = "before_norm",
        **options: Any,
    ) -> None:
        super().__init__(transformer, autoencoder, normalization, **options)
        self.zero_channels, self.modulated_by, self.zero_at = tuple(zero_channels), modulated_by, zero_at

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        t = self.t if level is None else logit_normal_time(level)
        return self.transformer.features(
            self._latent(x, noise, t),
            t,
            y,
            blocks=self.blocks,
            zero_channels=self.zero_channels,
            modulated_by=self.modulated_by,
            zero_at=self.zero_at,
        )


class SitTarget(LatentTarget):
    """Features of a frozen SiT, e.g. one trained with REPA: a diffusion model whose features were taught by DINOv2.

    Its own time runs from data to noise; here 1 is data. A random level is uniform in time, as in its training.
    Arguments as of `LatentTarget`; SD-VAE is the autoencoder.

    Source: Ma et al. 2024, arXiv:2401.08740; Yu et al. 2025, arXiv:2410.06940.
    """

    transformer: SiT

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        t = self.t if level is None else torch.special.ndtr(level).clamp(min=1e-3)  # at 0 pixels have no signal
        return self.transformer.features(self._latent(x, noise, t), 1.0 - t, y, blocks=self.blocks)


def fit_image(x: Tensor, size: int) -> Tensor:
    """Images scaled until their shorter side is `size` (bicubic, antialiased), then cropped in the centre.

    Returns:
        Tensor (b, c, size, size) in [0, 1].
    """
    height, width = x.shape[-2:]
    if (height, width) == (size, size):
        return x
    scale = size / min(height, width)
    height, width = (max(size, round(side * scale)) for side in (height, width))
    x = F.interpolate(x, size=(height, width), mode="bicubic", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return clamp(x[..., top : top + size, left : left + size])  # bicubic kernels overshoot
