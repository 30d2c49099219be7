"""The layers of LightningDiT: a modulated block of rotary attention and SwiGLU, and RMS norm.

Axes: b batch, n tokens, d width.

Source: Yao et al. 2025, arXiv:2501.01423.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.adaln import PlainNorm, gelu_tanh, init_linear, modulate, modulation
from rp_models.networks.rotary import rotate
from rp_models.networks.transformer import Attention, Mlp


class LightningBlock(nn.Module):
    """A modulated, gated transformer block; see `lightningdit.LightningDiT` for the arguments."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        swiglu: bool = True,
        rms_norm: bool = True,
        shift: bool = True,
    ) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.shift = shift
        norm, head_norm = (RMSNorm, RMSNorm) if rms_norm else (PlainNorm, nn.LayerNorm)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attn = RotaryAttention(width, heads, norm=head_norm if qk_norm else nn.Identity)
        self.mlp = SwiGLU(width, int(2 / 3 * hidden)) if swiglu else Mlp(width, hidden, activation=gelu_tanh)
        self.adaLN_modulation = modulation(width, (6 if shift else 4) * width)
        self.attn.apply(init_linear)
        self.mlp.apply(init_linear)

    def forward(self, x: Tensor, c: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
        """Tokens (b, n, d) to tokens of the same shape under the condition c (b, d)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulations(c)
        x = x + gate_a[:, None] * self.attn(modulate(self.norm1(x), shift_a, scale_a), rope)
        return x + gate_m[:, None] * self.mlp(modulate(self.norm2(x), shift_m, scale_m))

    def modulations(self, c: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """Shift, scale and gate of the attention branch, then of the MLP branch, (b, d) each; no shift is None."""
        if self.shift:
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=-1)
            return shift_a, scale_a, gate_a, shift_m, scale_m, gate_m
        scale_a, gate_a, scale_m, gate_m = self.adaLN_modulation(c).chunk(4, dim=-1)
        return None, scale_a, gate_a, None, scale_m, gate_m


class RotaryAttention(Attention):
    """Attention whose queries and keys are rotated by their position."""

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Mixed tokens (b, n, d), from tokens of that shape and the tables of `Rotary`."""
        q, k, v = self.project(x)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """A gated MLP: w3(silu(a) b), with a and b the halves of w12(x).

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., width) to tokens of the same shape."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) over the last axis, in float32 at least, times a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (..., width) to tokens of the same shape."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.rms_norm(wide, self.weight.shape, eps=1e-6).to(x.dtype) * self.weight
