"""Convolutional stems in place of patches, for ConvNeXt and ViT.

Source: Singh et al. 2023, arXiv:2303.01870, and its public code for names.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rp_models.networks.backbones import Backbone
from rp_models.networks.vit import VisionTransformer


class ConvStem(nn.Module):
    """3x3 convolutions, each with a norm over channels and a GELU, under the name `stem`.

    Args:
        channels: of the image, then of each convolution.
        strides: of each convolution.
        width: channels of a last 1x1 convolution without a norm; None for none.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip(channels, channels[1:], strides, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1), ChannelNorm(after, eps=1e-6), nn.GELU()]
        self.stem = nn.Sequential(*layers, *([nn.Conv2d(channels[-1], width, 1)] if width else []))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to feature maps (b, d, h / s, w / s)."""
        return self.stem(x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels at each position of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps (b, c, h, w) to the same shape."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ConvStemConvNeXt(Backbone):
    """A ConvNeXt of timm with two or three convolutions as its stem, keys `stem.stem.0, ..., stages, head`.

    Args:
        model: timm's name, e.g. "convnext_tiny".
        stem: channels of the stem's convolutions, the last ones those of the first stage.
        strides: of the stem's convolutions.
        others: see `Backbone`.
    """

    def __init__(
        self,
        model: str,
        stem: Sequence[int],
        strides: Sequence[int],
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, num_classes, in_channels, mean, std, options)
        self.network.stem = ConvStem((in_channels, *stem), strides)


class ConvStemViT(VisionTransformer):
    """A vision transformer on 16x16 patches made by four strided convolutions, keys `patch_embed.proj.stem.0, ...`.

    Args:
        stem: channels of the stem's first convolution; they double from one to the next.
        others: see `VisionTransformer`.
    """

    def __init__(
        self,
        stem: int = 48,
        image_size: int = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(
            image_size,
            patch_size=16,
            in_channels=in_channels,
            num_classes=num_classes,
            width=width,
            depth=depth,
            heads=heads,
            mean=mean,
            std=std,
        )
        channels = (in_channels, *(stem * 2**i for i in range(4)))
        self.patch_embed.proj = ConvStem(channels, (2, 2, 2, 2), width)  # type: ignore[assignment]
