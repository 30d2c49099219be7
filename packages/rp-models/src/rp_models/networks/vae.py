"""The KL autoencoder of latent diffusion: VA-VAE (f16, 32 channels) and SD-VAE (f8, 4 channels).

Images are in [0, 1] outside and scaled to [-1, 1] inside. Axes: b batch, c channels, h w image, z latent channels.

Source: Rombach et al. 2022, arXiv:2112.10752; VA-VAE: Yao et al. 2025, arXiv:2501.01423.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Posterior(NamedTuple):
    """A diagonal Gaussian over latents: mean and logarithm of the variance, (b, z, h/f, w/f) each."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """The standard deviation."""
        return (0.5 * self.logvar).exp()

    def sample(self, noise: Tensor) -> Tensor:
        """The latent mean + std * noise, for standard normal draws of the mean's shape."""
        return self.mean + self.std * noise


class AutoencoderKL(nn.Module):
    """Images to Gaussian latents and back. The defaults are VA-VAE f16d32.

    Args:
        in_channels: image channels.
        width: channels of the first level.
        multipliers: channels of each level over `width`; each level but the last halves the image.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        attention: per level, whether its blocks are followed by attention, in encoder and decoder alike.
        z_channels: latent channels z between encoder and decoder.
        embed_channels: channels of the latent itself; `z_channels` if None.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        attention: Sequence[bool] = (False, False, False, False, True),
        z_channels: int = 32,
        embed_channels: int | None = None,
    ) -> None:
        super().__init__()
        if len(attention) != len(multipliers):
            raise ValueError(f"expected one attention flag per level, got {len(attention)} and {len(multipliers)}")
        embed_channels = embed_channels or z_channels
        widths = [width * multiplier for multiplier in multipliers]
        self.in_channels, self.latent_channels = in_channels, embed_channels
        self.factor = 2 ** (len(widths) - 1)
        self.encoder = Encoder(in_channels, widths, blocks, attention, z_channels)
        self.decoder = Decoder(in_channels, widths, blocks + 1, attention, z_channels)
        self.quant_conv = nn.Conv2d(2 * z_channels, 2 * embed_channels, 1)
        self.post_quant_conv = nn.Conv2d(embed_channels, z_channels, 1)

    def encode(self, x: Tensor) -> Posterior:
        """The posterior over latents of images (b, c, h, w) in [0, 1]; logvar is limited to [-30, 20].

        Raises:
            ValueError: for other channels, or a size not divisible by the downsampling factor.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] % self.factor or x.shape[3] % self.factor:
            raise ValueError(
                f"expected images (batch, {self.in_channels}, height, width) with sides divisible by {self.factor}, "
                f"got {tuple(x.shape)}; crop or resize them"
            )
        mean, logvar = self.quant_conv(self.encoder(2 * x - 1)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def decode(self, z: Tensor) -> Tensor:
        """Images (b, c, h, w) of latents (b, z, h/f, w/f); not clamped, so that values may lie slightly outside [0, 1].

        Raises:
            ValueError: for other channels.
        """
        if z.dim() != 4 or z.shape[1] != self.latent_channels:
            raise ValueError(
                f"expected latents (batch, {self.latent_channels}, height, width), got {tuple(z.shape)}; "
                "undo their normalisation, but keep their layout"
            )
        return (self.decoder(self.post_quant_conv(z)) + 1) / 2

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction (b, c, h, w) of images in [0, 1] from the mean of their posterior."""
        return self.decode(self.encode(x).mean)


class LatentNormalization(nn.Module):
    """Latents to zero mean and unit variance per channel, times a multiplier, and back.

    VA-VAE's latents use the statistics of the training set and multiplier 1; SD-VAE's use mean 0, std 1 and 0.18215.

    Args:
        channels: latent channels; statistics start at mean 0 and std 1.
        multiplier: applied after the normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 32, multiplier: float = 1.0) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    @classmethod
    def fit(cls, latents: Tensor, multiplier: float = 1.0) -> "LatentNormalization":
        """The normalisation by the statistics of latents (b, z, h, w); the variance is the unbiased one."""
        normalization = cls(latents.shape[1], multiplier).to(latents.device)
        normalization.mean.copy_(latents.mean(dim=(0, 2, 3), keepdim=True))
        normalization.std.copy_(latents.std(dim=(0, 2, 3), keepdim=True))
        return normalization

    def forward(self, z: Tensor) -> Tensor:
        """Normalised latents, in the shape of z (b, z, h, w)."""
        return (z - self.mean) / self.std * self.multiplier

    def inverse(self, z: Tensor) -> Tensor:
        """Latents for the decoder from normalised ones."""
        return z * self.std / self.multiplier + self.mean


class Encoder(nn.Module):
    """Images in [-1, 1] to 2 z_channels maps; see `AutoencoderKL`."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], blocks: int, attention: Sequence[bool], z_channels: int
    ) -> None:
        super().__init__()
        self.conv_in = _conv3(in_channels, widths[0])
        incoming = [widths[0], *widths[:-1]]
        self.down = nn.ModuleList(
            Level(i, o, blocks, attends) for i, o, attends in zip(incoming, widths, attention, strict=True)
        )
        for level, channels in zip(self.down[:-1], widths, strict=False):
            level.downsample = _downsample(channels)
        self.mid = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = _conv3(widths[-1], 2 * z_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to (b, 2 z, h/f, w/f)."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """z_channels maps to images in [-1, 1]; the levels run from the last to the first; see `AutoencoderKL`."""

    def __init__(
        self, out_channels: int, widths: Sequence[int], blocks: int, attention: Sequence[bool], z_channels: int
    ) -> None:
        super().__init__()
        self.conv_in = _conv3(z_channels, widths[-1])
        self.mid = _middle(widths[-1])
        incoming = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(
            Level(i, o, blocks, attends) for i, o, attends in zip(incoming, widths, attention, strict=True)
        )
        for level, channels in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = _upsample(channels)
        self.norm_out = _norm(widths[0])
        self.conv_out = _conv3(widths[0], out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (b, z, h/f, w/f) to images (b, c, h, w)."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention if wanted, then a change of resolution if set."""

    def __init__(self, in_channels: int, channels: int, blocks: int, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(in_channels if index == 0 else channels, channels) for index in range(blocks)
        )
        self.attn = nn.ModuleList(SpatialAttention(channels) for _ in range(blocks if attends else 0))
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, c, h, w) to maps of the level's channels, of the same, half or double size."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class ResidualBlock(nn.Module):
    """Twice group norm, SiLU and a 3x3 convolution, added to the input (through a 1x1 convolution if widths differ)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = _conv3(in_channels, channels)
        self.norm2 = _norm(channels)
        self.conv2 = _conv3(channels, channels)
        self.nin_shortcut = nn.Conv2d(in_channels, channels, 1) if in_channels != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, in_channels, h, w) to (b, channels, h, w)."""
        branch = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(branch)))


class SpatialAttention(nn.Module):
    """Self-attention with one head over all positions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, c, h, w) to maps of the same shape."""
        normed = self.norm(x)
        q, k, v = (conv(normed).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))  # b 1 hw c
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


def _middle(channels: int) -> nn.Sequential:
    """Residual block, attention, residual block at the lowest resolution; maps (b, c, h, w) to the same shape."""
    return nn.Sequential(
        OrderedDict(
            block_1=ResidualBlock(channels, channels),
            attn_1=SpatialAttention(channels),
            block_2=ResidualBlock(channels, channels),
        )
    )


def _downsample(channels: int) -> nn.Sequential:
    """Half the size: zeros on the right and below, then a 3x3 convolution with stride 2."""
    return nn.Sequential(OrderedDict(pad=nn.ZeroPad2d((0, 1, 0, 1)), conv=nn.Conv2d(channels, channels, 3, stride=2)))


def _upsample(channels: int) -> nn.Sequential:
    """Double the size: nearest neighbour, then a 3x3 convolution."""
    return nn.Sequential(OrderedDict(repeat=nn.Upsample(scale_factor=2.0), conv=_conv3(channels, channels)))


def _conv3(in_channels: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, 3, padding=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)
