"""Adaptive layer norm: how a diffusion transformer's blocks follow the time and the class.

A condition vector c (time embedding + label embedding) gives each block, through SiLU and one linear layer, the shift
and the scale of its norms and the gates of its residual branches. MaskDiT and SiT use these blocks as they are;
LightningDiT has its own block with other norms and takes the embeddings and `modulate` from here.

Axes: b batch, n tokens, d width, e width of the condition.

Source: Peebles and Xie 2023, arXiv:2212.09748 (adaLN-Zero).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.transformer import Attention, Mlp
from rp_models.values import as_values, check_values

gelu_tanh = partial(F.gelu, approximate="tanh")


def modulate(x: Tensor, shift: Tensor | None, scale: Tensor) -> Tensor:
    """Tokens x (b, n, d) times 1 + scale, plus shift; scale and shift are (b, d), no shift if None."""
    x = x * (1 + scale[:, None])
    return x if shift is None else x + shift[:, None]


def modulation(condition_width: int, outputs: int) -> nn.Sequential:
    """SiLU and a linear layer, zero at the start: a condition (b, e) to `outputs` shifts, scales and gates."""
    linear = nn.Linear(condition_width, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.SiLU(), linear)


class PlainNorm(nn.LayerNorm):
    """Layer norm over the last axis without parameters, eps 1e-6: the modulation takes their place."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6, elementwise_affine=False)


class AdaLNBlock(nn.Module):
    """A transformer block whose two norms are modulated and whose two branches are gated by the condition."""

    def __init__(self, width: int, heads: int, *, condition_width: int | None = None, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = PlainNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = PlainNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio), activation=gelu_tanh)
        self.adaLN_modulation = modulation(condition_width or width, 6 * width)
        self.attn.apply(init_linear)
        self.mlp.apply(init_linear)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (b, n, d) to tokens of the same shape under the condition c (b, e)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))

    def attention_map(self, x: Tensor, c: Tensor) -> Tensor:
        """The softmax weights (b, heads, n, n) of this block's attention for its input tokens (b, n, d)."""
        shift, scale = self.adaLN_modulation(c).chunk(6, dim=-1)[:2]
        return self.attn.attention_map(modulate(self.norm1(x), shift, scale))


class ModulatedLinear(nn.Module):
    """Norm, modulation, linear layer: MaskDiT's step from encoder to decoder, and every final layer.

    A norm without parameters leaves no key in the state dict; LightningDiT's is an RMS norm.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        condition_width: int | None = None,
        norm: Callable[[int], nn.Module] = PlainNorm,
    ) -> None:
        super().__init__()
        self.norm_final = norm(width)
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = modulation(condition_width or width, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (b, n, width) to (b, n, outputs) under the condition c (b, e)."""
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class TimeEmbedding(nn.Module):
    """A scalar time to a vector: cosines and sines of 128 frequencies from 1 down to 1e-4, then a two-layer MLP."""

    FREQUENCIES = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = nn.Linear(2 * self.FREQUENCIES, width), nn.Linear(width, width)
        for linear in (first, second):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)

    def forward(self, t: Tensor) -> Tensor:
        """Times (b,) to (b, width); the time is taken as it is, not multiplied by 1000."""
        index = torch.arange(self.FREQUENCIES, device=t.device, dtype=t.dtype)
        angle = t[:, None] * torch.exp(-math.log(10000) / self.FREQUENCIES * index)
        wave = torch.cat([angle.cos(), angle.sin()], dim=1)
        return self.mlp(wave.to(next(self.parameters()).dtype))


class LabelEmbedding(nn.Module):
    """A class index to a vector; the index `num_classes` stands for "no class" where guidance is trained."""

    def __init__(self, num_classes: int, width: int, *, null_class: bool = True) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.null_class = null_class
        self.embedding_table = nn.Embedding(num_classes + null_class, width)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        """Class indices (b,), or None for "no class", to (b, width).

        Raises:
            ValueError: for an index without a row, a wrong number of labels, or None without a null class.
        """
        if y is None:
            if not self.null_class:
                raise ValueError("this model has no row for 'no class' (class_dropout_prob is 0); pass labels")
            y = torch.full((batch,), self.num_classes, device=self.embedding_table.weight.device)
        check_labels(y, batch, self.num_classes + self.null_class)
        return self.embedding_table(y)


def drop_labels(y: Tensor, draw: Tensor, rate: float, null: int) -> Tensor:
    """Class indices (b,) in which those with draw < rate are replaced by the index `null`.

    Source: Ho and Salimans 2022, arXiv:2207.12598.
    """
    return torch.where(draw < rate, torch.full_like(y, null), y)


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for a linear layer or a patch convolution; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_labels(y: Tensor, batch: int, count: int) -> None:
    """Refuse class indices that are not integers (batch,) in [0, count); values are not read while compiling."""
    if y.dtype not in (torch.int64, torch.int32) or y.shape != (batch,):
        raise ValueError(f"expected integer labels ({batch},), got {y.dtype} {tuple(y.shape)}")
    check_values(
        y,
        lambda y: (y >= 0) & (y < count),
        lambda y: f"labels must be in 0..{count - 1}, got {int(y.min())}..{int(y.max())}",
    )


def flow_time(t: Tensor | float, x: Tensor) -> Tensor:
    """The time of a flow as a tensor (b,), from one number for all images or one per image.

    Raises:
        ValueError: for a wrong shape, or a time outside [0, 1]; values are not read while compiling.
    """
    batch = x.shape[0]
    time = torch.as_tensor(t)  # a number stays on the CPU, where looking at it does not stall a GPU
    if time.shape not in ((), (1,), (batch,)):
        raise ValueError(f"expected one time or {batch} times, got shape {tuple(time.shape)}")
    check_values(
        time,
        lambda time: (time >= 0) & (time <= 1),
        lambda time: (
            f"a flow's time must be in [0, 1], got {float(time.min()):.3g}..{float(time.max()):.3g}; "
            "it is not a step index"
        ),
    )
    dtype = torch.promote_types(x.dtype, torch.float32)
    return as_values(t, device=x.device, dtype=dtype).expand(batch)
