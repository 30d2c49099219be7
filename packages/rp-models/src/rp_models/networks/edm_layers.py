"""The parts of EDM's U-Nets; parameter and buffer names are those of the public reference.

Axes: b batch, c channels, h w image, e embedding width.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Direction = Literal["up", "down"]


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """A group norm with up to 32 groups of at least four channels, as many as divide the channels."""
    groups = next(n for n in range(max(1, min(32, channels // 4)), 0, -1) if channels % n == 0)
    return nn.GroupNorm(groups, channels, eps)


class PositionalEmbedding(nn.Module):
    """Cosines, then sines, of a scalar at geometrically spaced frequencies from 1 down to 1/10000.

    Args:
        endpoint: whether the lowest frequency is exactly 1/10000 (DDPM++) or the next after the last (ADM).
    """

    def __init__(self, channels: int, *, endpoint: bool) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"the noise embedding needs an even number of channels, at least 4, got {channels}")
        self.channels = channels
        self.endpoint = endpoint

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (b, channels) of scalars (b,)."""
        half = self.channels // 2
        exponent = torch.arange(half, dtype=x.dtype, device=x.device) / (half - self.endpoint)
        # a power, not exp(-log): arguments reach 999 and multiply the rounding of the frequency
        angle = x[:, None] * (1 / 10000) ** exponent
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Cosines, then sines, of a scalar at random frequencies that are part of the state."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"the noise embedding needs an even number of channels, got {channels}")
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (b, channels) of scalars (b,)."""
        angle = x[:, None] * (2 * math.pi * self.freqs).to(x.dtype)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class ResampleConv2d(nn.Module):
    """A convolution that also halves or doubles the resolution with a fixed separable filter.

    Args:
        kernel: odd kernel size; 0 resamples only and has no weights.
        resample_filter: the filter's one-dimensional taps, two or four of them.
        conv_first: convolve at the full resolution and then filter down (the residual encoder of NCSN++);
            otherwise the resampling comes first.
    """

    resample_filter: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        direction: Direction,
        resample_filter: Sequence[float] = (1, 1),
        conv_first: bool = False,
    ) -> None:
        super().__init__()
        if conv_first and (direction == "up" or not kernel):
            raise ValueError("conv_first is defined for a convolution that goes down")
        self.direction = direction
        self.conv_first = conv_first
        self.padding = kernel // 2
        if kernel:
            conv = nn.Conv2d(in_channels, out_channels, kernel)  # for torch's initialisation
            self.weight, self.bias = conv.weight, conv.bias
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)
        taps = torch.tensor(list(resample_filter), dtype=torch.float32)
        self.register_buffer("resample_filter", (torch.outer(taps, taps) / taps.sum().square())[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to (b, out_channels, h/2, w/2) or (b, out_channels, 2h, 2w)."""
        margin = (self.resample_filter.shape[-1] - 1) // 2
        if self.weight is None:
            return self._resample(x, margin)
        if self.conv_first:  # the convolution's padding serves the filter as well, and the bias is not filtered
            x = self._resample(F.conv2d(x, self.weight, padding=self.padding + margin), padding=0)
            return x if self.bias is None else x + self.bias[:, None, None]
        return F.conv2d(self._resample(x, margin), self.weight, self.bias, padding=self.padding)

    def _resample(self, x: Tensor, padding: int) -> Tensor:
        """The filter on each channel, with stride 2 down or spread with stride 2 up."""
        channels = x.shape[1]
        taps = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.direction == "down":
            return F.conv2d(x, taps, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=channels)


class UNetBlock(nn.Module):
    """A residual block with optional resampling and self-attention, conditioned on an embedding.

    Args:
        resample: "up", "down" or None.
        dropout: probability before the second convolution.
        skip_scale: factor on each sum of branch and shortcut, 1 or sqrt(1/2).
        resample_filter: taps of the resampling filter.
        resample_proj: whether a resampling shortcut also has a 1x1 convolution.
        adaptive_scale: whether the embedding scales and shifts (ADM) or only shifts before the norm (DDPM++).

    Source: Table 1 and Appendix F.1 of Karras et al. 2022, arXiv:2206.00364.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        resample: Direction | None = None,
        heads: int = 0,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.heads = heads
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale

        def conv(source: int, kernel: int) -> nn.Module:
            if resample is None:
                return nn.Conv2d(source, out_channels, kernel, padding=kernel // 2)
            return ResampleConv2d(source, out_channels, kernel, direction=resample, resample_filter=resample_filter)

        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = conv(in_channels, 3)
        self.affine = nn.Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = None
        if in_channels != out_channels or resample is not None:
            self.skip = conv(in_channels, 1 if resample_proj or in_channels != out_channels else 0)
        if heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = nn.Conv2d(out_channels, 3 * out_channels, 1)
            self.proj = nn.Conv2d(out_channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Features (b, in_channels, h, w) and embedding (b or 1, e) to features (b, out_channels, h', w')."""
        h = self.conv0(F.silu(self.norm0(x)))
        condition = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm1(h), 1 + scale)
        else:
            h = self.norm1(h.add_(condition))
        h = self.conv1(F.dropout(F.silu(h), self.dropout, self.training))
        h = self._merge_(h, x if self.skip is None else self.skip(x))
        return self._merge_(self._attend(h), h) if self.heads else h

    def _merge_(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """Their scaled sum, in the memory of the branch: a convolution's output, which no backward pass needs."""
        total = branch.add_(shortcut)
        return total if self.skip_scale == 1 else total.mul_(self.skip_scale)

    def _attend(self, x: Tensor) -> Tensor:
        """Self-attention over the pixels of each image."""
        b, c, height, width = x.shape
        # the reference's channel order: head, then channel, then query, key, value
        qkv = self.qkv(self.norm2(x)).reshape(b * self.heads, c // self.heads, 3, height * width)
        q, k, v = qkv.unbind(2)  # b*heads channels pixels: as they are, where fused attention would copy them
        weights = (q.transpose(1, 2) @ (k / math.sqrt(c // self.heads))).softmax(dim=2)
        return self.proj((v @ weights.transpose(1, 2)).reshape(b, c, height, width))
