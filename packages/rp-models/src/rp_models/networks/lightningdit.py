"""LightningDiT: a latent diffusion transformer with rotary positions, RMS norms and SwiGLU.

Time runs from noise (0) to data (1); see `transport`. Axes: b batch, c channels, h w latent, n tokens, d width.

Source: Yao et al. 2025, "Reconstruction vs. generation: taming optimization dilemma in latent diffusion models",
arXiv:2501.01423.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rp_models.networks.adaln import (
    LabelEmbedding,
    ModulatedLinear,
    PlainNorm,
    TimeEmbedding,
    flow_time,
    init_linear,
    modulate,
)
from rp_models.networks.lightningdit_layers import LightningBlock, RMSNorm
from rp_models.networks.position import sincos_table
from rp_models.networks.rotary import Rotary
from rp_models.networks.transformer import PatchEmbed, unpatchify
from rp_models.values import send

MASSIVE_CHANNELS = (1053, 259)  # of the released XL/1, as Huang et al. found; see `LightningDiT.features`


class LightningDiT(nn.Module):
    """The velocity v(x_t, t, y) of the flow from noise to latents. The defaults are the released XL/1.

    Args:
        image_size, patch_size, in_channels: of the latent (image size 16 for 256 px under VA-VAE f16).
        width, depth, heads: of the transformer.
        mlp_ratio: hidden width of a plain MLP over `width`; SwiGLU takes 2/3 of it, to have as many parameters.
        class_dropout_prob: share of labels to drop in training (see `adaln.drop_labels`); a null class exists above 0.
        num_classes: number of classes, and the index of the null class.
        learn_sigma: predict twice the channels and return the first half.
        qk_norm: normalise queries and keys.
        swiglu: SwiGLU instead of a GELU MLP.
        rope: rotary positions, in addition to the fixed sine-cosine table.
        rms_norm: RMS norms with weights instead of plain layer norms.
        shift: whether the blocks' modulation shifts; False is the reference's `wo_shift`.
        recompute: recompute each block in the backward pass instead of storing its activations.
    """

    def __init__(
        self,
        *,
        image_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 32,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        qk_norm: bool = False,
        swiglu: bool = True,
        rope: bool = True,
        rms_norm: bool = True,
        shift: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"the width must be divisible by the number of heads, got {width} and {heads}")
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.class_dropout_prob, self.recompute = class_dropout_prob, recompute
        self.x_embedder = PatchEmbed(image_size, patch_size, in_channels, width)
        self.x_embedder.apply(init_linear)
        self.pos_embed = nn.Parameter(sincos_table(width, self.x_embedder.grid)[None], requires_grad=False)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = LabelEmbedding(num_classes, width, null_class=class_dropout_prob > 0)
        self.feat_rope = Rotary(width // heads, self.x_embedder.grid) if rope else None
        self.blocks = nn.ModuleList(
            LightningBlock(
                width, heads, mlp_ratio=mlp_ratio, qk_norm=qk_norm, swiglu=swiglu, rms_norm=rms_norm, shift=shift
            )
            for _ in range(depth)
        )
        outputs = patch_size**2 * in_channels * (1 + learn_sigma)
        self.final_layer = ModulatedLinear(width, outputs, norm=RMSNorm if rms_norm else PlainNorm)

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """The velocity (b, c, h, w).

        Args:
            x: latents on their way from noise to data (b, c, h, w), normalised (see `vae.LatentNormalization`).
            t: time in [0, 1], 0 for noise: one number, or one per image (b,).
            y: class indices (b,), `num_classes` for "no class"; None for no class at all.

        Raises:
            ValueError: for latents, times or labels that do not fit.
        """
        c = self.condition(x, t, y)
        tokens = self.final_layer(self._run(x, c, len(self.blocks)), c)
        return unpatchify(tokens, self.patch_size)[:, : self.in_channels]

    def condition(self, x: Tensor, t: Tensor | float, y: Tensor | None) -> Tensor:
        """The condition vector (b, d): time embedding plus label embedding."""
        return self.t_embedder(flow_time(t, x)) + self.y_embedder(y, x.shape[0])

    def features(
        self,
        x: Tensor,
        t: Tensor | float,
        y: Tensor | None = None,
        *,
        blocks: int = 14,
        zero_channels: Sequence[int] = (),
        modulated_by: Literal["next", "same"] | None = "next",
        zero_at: Literal["before_norm", "after_norm"] = "before_norm",
    ) -> Tensor:
        """Tokens (b, n, d) in the middle of the network, without their massive channels; the rest is not computed.

        A few channels of the residual stream are so large that they hide the others (`MASSIVE_CHANNELS` in the released
        XL/1). They are set to zero in the output of the `blocks`-th block; then comes what the attention branch of a
        block does first: norm, scale, shift, all at this t and y. "Layer 14" of Huang et al. is read as `blocks=14`:
        14 blocks are done, the 15th lends its norm and modulation.

        Args:
            x: as in `forward`; for a clean latent z, `transport.interpolate(z, noise, t)` or z itself.
            t: as in `forward`.
            y: as in `forward`.
            blocks: how many blocks to run, 1 to the depth; "next" needs one more block to lend its norm.
            zero_channels: channels to set to zero.
            modulated_by: the block that lends norm and modulation: the one that would consume the tokens ("next"), the
                one that made them ("same"), or none (None: the raw residual stream).
            zero_at: zero the channels ahead of the norm, so that they do not enter its statistics, or behind it.

        Source: Gan et al. 2025, arXiv:2505.18584 (zeroing before norm and modulation); layer, t = 0.8 and channels:
        Huang et al., "Expanding the role of diffusion models for robust classifier training", appendix D.
        """
        lender = self._lender(blocks, modulated_by)
        if zero_at not in ("before_norm", "after_norm"):
            raise ValueError(f"zero_at must be 'before_norm' or 'after_norm', got {zero_at!r}")
        if any(not 0 <= channel < self.pos_embed.shape[2] for channel in zero_channels):
            raise ValueError(f"zero_channels must be in 0..{self.pos_embed.shape[2] - 1}, got {list(zero_channels)}")
        massive = send(torch.tensor(list(zero_channels), dtype=torch.int64), x.device)
        c = self.condition(x, t, y)
        tokens = self._run(x, c, blocks)
        if lender is None:
            return tokens.index_fill(-1, massive, 0)
        if zero_at == "before_norm":
            tokens = lender.norm1(tokens.index_fill(-1, massive, 0))
        else:
            tokens = lender.norm1(tokens).index_fill(-1, massive, 0)
        shift, scale = lender.modulations(c)[:2]
        return modulate(tokens, shift, scale)

    def _lender(self, blocks: int, modulated_by: str | None) -> "LightningBlock | None":
        """The block whose norm and modulation `features` uses, for a valid number of blocks."""
        if modulated_by not in ("next", "same", None):
            raise ValueError(f"modulated_by must be 'next', 'same' or None, got {modulated_by!r}")
        last = len(self.blocks) - (modulated_by == "next")
        if not 1 <= blocks <= last:
            raise ValueError(
                f"blocks counts the blocks to run, 1..{last} with modulated_by={modulated_by!r}, got {blocks}"
            )
        if modulated_by is None:
            return None
        return cast(LightningBlock, self.blocks[blocks if modulated_by == "next" else blocks - 1])

    def _run(self, x: Tensor, c: Tensor, blocks: int) -> Tensor:
        """Tokens (b, n, d) after the first `blocks` blocks."""
        tokens = self.x_embedder(x) + self.pos_embed
        rope = self.feat_rope.table() if self.feat_rope is not None else None
        for block in self.blocks[:blocks]:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, c, rope, use_reentrant=False)
            else:
                tokens = block(tokens, c, rope)
        return tokens
