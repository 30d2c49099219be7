"""The parts that MAE, ViT and the diffusion transformers share; parameter names are timm's.

Axes: b batch, n tokens, d width, h heads.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; `norm`, if any, makes the norms of queries and of keys."""

    def __init__(self, width: int, heads: int, *, norm: Callable[[int], nn.Module] = nn.Identity) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width must be divisible by the number of heads, got {width} and {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm, self.k_norm = norm(width // heads), norm(width // heads)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, h, n, d/h) of tokens (b, n, d)."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor) -> Tensor:
        """Mixed tokens (b, n, d); uses torch's fused attention."""
        q, k, v = self.project(x)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def attention_map(self, x: Tensor) -> Tensor:
        """The softmax weights (b, h, n, n) that `forward` applies to the same tokens; rows sum to 1."""
        q, k, _ = self.project(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, *, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., width) to tokens of the same shape."""
        return self.fc2(self.activation(self.fc1(x)))


class DropPath(nn.Module):
    """Drops a residual branch for whole images in training, and scales the kept ones up (stochastic depth).

    Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the drop rate must be in [0, 1), got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The branch (b, ...), with dropped images set to zero."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1.0 - self.rate)


class Block(nn.Module):
    """A pre-norm transformer block: attention, then MLP, each added to its input."""

    def __init__(
        self, width: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (b, n, d) to tokens of the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attention_map(self, x: Tensor) -> Tensor:
        """The softmax weights (b, h, n, n) of this block's attention for its input tokens (b, n, d)."""
        return self.attn.attention_map(self.norm1(x))


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *condition: Tensor) -> Tensor:
    """Tokens (b, n, d) after the blocks, each of which is called with the same condition, if any."""
    for block in blocks:
        x = block(x, *condition)
    return x


def attention_maps(blocks: nn.ModuleList, x: Tensor, *condition: Tensor) -> list[Tensor]:
    """The attention weights (b, h, n, n) of each block on the way of the tokens (b, n, d) through them."""
    maps = []
    for block in blocks:
        maps.append(cast(Any, block).attention_map(x, *condition))
        x = block(x, *condition)
    return maps


class PatchEmbed(nn.Module):
    """Square patches of an image to tokens, in row-major order, by a strided convolution."""

    def __init__(self, image_size: int, patch_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"the image size must be divisible by the patch size, got {image_size} and {patch_size}")
        self.image_size, self.patch_size, self.in_channels = image_size, patch_size, in_channels
        self.grid = image_size // patch_size
        self.tokens = self.grid**2
        self.proj = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) to tokens (b, n, d).

        Raises:
            ValueError: if the images have other channels or another size than the embedding was built for.
        """
        expected = (self.in_channels, self.image_size, self.image_size)
        if tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"expected images (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}; "
                "resize the images or build the model for their size"
            )
        return self.proj(x).flatten(2).transpose(1, 2)


def patchify(x: Tensor, patch_size: int) -> Tensor:
    """Images (b, c, h, w) to flat patches (b, n, patch_size^2 * c); inside a patch: row, column, channel.

    Raises:
        ValueError: if the images do not divide into patches.
    """
    b, c, height, width = x.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"expected images that divide into patches of {patch_size} pixels, got {tuple(x.shape)}; "
            "resize the images or build the model for their size"
        )
    h, w = height // patch_size, width // patch_size
    patches = x.reshape(b, c, h, patch_size, w, patch_size).permute(0, 2, 4, 3, 5, 1)
    return patches.reshape(b, h * w, patch_size**2 * c)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """The inverse of `patchify` for a square grid: (b, n, patch_size^2 * c) to (b, c, h, w)."""
    b, n, size = patches.shape
    grid, channels = round(n**0.5), size // patch_size**2
    if grid**2 != n or channels * patch_size**2 != size:
        raise ValueError(f"{n} patches of {size} values do not form a square image with patches of {patch_size} px")
    x = patches.reshape(b, grid, grid, patch_size, patch_size, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(b, channels, grid * patch_size, grid * patch_size)
