"""Features of LightningDiT, the latent diffusion transformer that serves as the target on ImageNet."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from rp_attacks.clamping import clamp
from rp_models.diffusion.transport import interpolate, logit_normal_time
from rp_models.networks.lightningdit import MASSIVE_CHANNELS, LightningDiT
from rp_models.networks.vae import AutoencoderKL, LatentNormalization
from torch import Tensor
from torch.nn import functional as F

from rp_dra.targets.target import FrozenTarget, Label, Precision

Latent = Literal["mean", "sample"]


class LightningDitTarget(FrozenTarget):
    """Features of a frozen LightningDiT: one pass of a noisy latent through its first blocks, averaged over tokens.

    The image is scaled and cropped to the autoencoder's size, encoded, normalised by the latents' statistics and mixed
    with noise, x_t = t z + (1 - t) noise. In the residual stream after 14 blocks the two massive channels are set to
    zero; then come the norm and the modulation of the block that would be next. The paper names layer, time and
    channels; everything else below is left open there, and these defaults are this project's reading.

    Args:
        transformer: LightningDiT; frozen, like the other two.
        autoencoder: VA-VAE, of which only the encoder runs.
        t: time, 0 for noise and 1 for data.
        zero_channels: the massive channels of this checkpoint.
        modulated_by: whose norm and modulation is applied, see `LightningDiT.features`.
        zero_at: whether the channels are zeroed before the norm or after it.
        latent: "mean" of the autoencoder's posterior, or a "sample", as in LightningDiT's training.
        noisy: False passes the clean latent, with the same t.
        label: "class" conditions on the label, "null" on the class that stands for none.
        random_level: give a second representation of each image at a random time (see `represent`).

    Source: Appendix D of the DRA paper; Yao et al. 2025, arXiv:2501.01423.
    """

    def __init__(
        self,
        transformer: LightningDiT,
        autoencoder: AutoencoderKL,
        normalization: LatentNormalization,
        *,
        t: float = 0.8,
        blocks: int = 14,
        zero_channels: Sequence[int] = MASSIVE_CHANNELS,
        modulated_by: Literal["next", "same"] | None = "next",
        zero_at: Literal["before_norm", "after_norm"] = "before_norm",
        latent: Latent = "mean",
        noisy: bool = True,
        label: Label = "class",
        random_level: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(label=label, precision=precision, random_level=random_level)
        channels = (transformer.in_channels, autoencoder.latent_channels, normalization.mean.shape[1])
        if len(set(channels)) != 1:
            raise ValueError(
                "transformer, autoencoder and normalisation must have the same latent channels, got "
                + ", ".join(map(str, channels))
            )
        if not 0 < t <= 1:
            raise ValueError(f"t must be in (0, 1], 1 for data, got {t}")
        if latent not in get_args(Latent):
            raise ValueError(f"latent must be 'mean' or 'sample', got {latent!r}")
        self.transformer, self.autoencoder, self.normalization = transformer, autoencoder, normalization
        self.eval().requires_grad_(False)
        self.t, self.blocks, self.zero_channels = t, blocks, tuple(zero_channels)
        self.modulated_by, self.zero_at, self.latent, self.noisy = modulated_by, zero_at, latent, noisy

    @property
    def image_size(self) -> int:
        """Height and width of the images that the autoencoder is given: 256 for the released models."""
        return self._latent_size * self.autoencoder.factor

    def noise_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The latent's shape; with latent="sample" twice the channels, the second half for the posterior's draw."""
        channels = self.transformer.in_channels * (2 if self.latent == "sample" else 1)
        return (channels, self._latent_size, self._latent_size)

    def width(self, channels: int, image_size: int) -> int:
        """The number of features d: the transformer's width."""
        return int(self.transformer.pos_embed.shape[2])

    @property
    def _latent_size(self) -> int:
        return self.transformer.x_embedder.grid * self.transformer.patch_size

    def _features(self, x: Tensor, y: Tensor | None, noise: Tensor, level: Tensor | None) -> Tensor:
        posterior = self.autoencoder.encode(fit_image(x, self.image_size))
        if self.latent == "sample":
            noise, draw = noise.chunk(2, dim=1)
            z = posterior.sample(draw)
        else:
            z = posterior.mean
        z = self.normalization(z.to(torch.float32))
        t = self.t if level is None else logit_normal_time(level)
        tokens = self.transformer.features(
            interpolate(z, noise, t) if self.noisy else z,
            t,
            y,
            blocks=self.blocks,
            zero_channels=self.zero_channels,
            modulated_by=self.modulated_by,
            zero_at=self.zero_at,
        )
        return tokens.mean(dim=1)


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
