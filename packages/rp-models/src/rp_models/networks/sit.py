"""SiT with REPA: a latent flow transformer whose early features are aligned with a pretrained encoder's.

Time runs from data (0) to noise (1), opposite to LightningDiT.
Axes: b batch, c channels, h w latent, n tokens, d width.

Source: Ma et al. 2024, arXiv:2401.08740; Yu et al. 2025, arXiv:2410.06940.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from rp_models.networks.adaln import (
    AdaLNBlock,
    LabelEmbedding,
    ModulatedLinear,
    TimeEmbedding,
    flow_time,
    init_linear,
)
from rp_models.networks.position import sincos_table
from rp_models.networks.projector import ProjectionHead, alignment_loss
from rp_models.networks.transformer import PatchEmbed, run_blocks, unpatchify


class SiTOutput(NamedTuple):
    """A velocity (b, c, h, w), and the projected tokens (b, n, z) for each target encoder."""

    velocity: Tensor
    projections: list[Tensor]


class RepaLoss(NamedTuple):
    """The two terms of the loss, (b,) each; the training loss is denoising + 0.5 projection."""

    denoising: Tensor
    projection: Tensor


class SiT(nn.Module):
    """The velocity v(x_t, t, y) of the flow between latents (t = 0) and noise (t = 1). The defaults are SiT-XL/2.

    Args:
        image_size, patch_size, in_channels: of the latent.
        width, depth, heads: of the transformer.
        mlp_ratio: hidden width of the MLPs over `width`.
        class_dropout_prob: share of labels to drop in training (see `adaln.drop_labels`); a null class exists above 0.
        num_classes: number of classes, and the index of the null class.
        encoder_depth: the projections take the tokens after so many blocks.
        target_widths: width of each target encoder's features; empty for no projection.
        projector_hidden: hidden width of the projections.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        width: int = 1152,
        depth: int = 28,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        class_dropout_prob: float = 0.1,
        num_classes: int = 1000,
        encoder_depth: int = 8,
        target_widths: Sequence[int] = (768,),
        projector_hidden: int = 2048,
    ) -> None:
        super().__init__()
        if not 1 <= encoder_depth <= depth:
            raise ValueError(f"encoder_depth counts blocks and must be in 1..{depth}, got {encoder_depth}")
        self.patch_size, self.encoder_depth = patch_size, encoder_depth
        self.num_classes, self.class_dropout_prob = num_classes, class_dropout_prob
        self.x_embedder = PatchEmbed(image_size, patch_size, in_channels, width)
        self.x_embedder.apply(init_linear)
        self.pos_embed = nn.Parameter(sincos_table(width, self.x_embedder.grid)[None], requires_grad=False)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = LabelEmbedding(num_classes, width, null_class=class_dropout_prob > 0)
        self.blocks = nn.ModuleList(AdaLNBlock(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.projectors = nn.ModuleList(ProjectionHead(width, z, projector_hidden) for z in target_widths)
        self.final_layer = ModulatedLinear(width, patch_size**2 * in_channels)

    def forward(self, x: Tensor, t: Tensor | float, y: Tensor | None = None) -> Tensor:
        """The velocity (b, c, h, w).

        Args:
            x: latents on their way from data to noise (b, c, h, w).
            t: time in [0, 1], 0 for data: one number, or one per image (b,).
            y: class indices (b,), `num_classes` for "no class"; None for no class at all.

        Raises:
            ValueError: for latents, times or labels that do not fit.
        """
        c = self.condition(x, t, y)
        return self._finish(run_blocks(self.blocks, self._embed(x), c), c)

    def project(self, x: Tensor, t: Tensor | float, y: Tensor | None = None) -> SiTOutput:
        """The velocity, and the projections of the tokens after `encoder_depth` blocks; arguments as in `forward`."""
        c = self.condition(x, t, y)
        middle = run_blocks(self.blocks[: self.encoder_depth], self._embed(x), c)
        tokens = run_blocks(self.blocks[self.encoder_depth :], middle, c)
        return SiTOutput(self._finish(tokens, c), [projector(middle) for projector in self.projectors])

    def features(self, x: Tensor, t: Tensor | float, y: Tensor | None = None, *, blocks: int = 8) -> Tensor:
        """Tokens (b, n, d) after the first `blocks` blocks; the rest is not computed. Arguments as in `forward`."""
        if not 1 <= blocks <= len(self.blocks):
            raise ValueError(f"blocks counts the blocks to run and must be in 1..{len(self.blocks)}, got {blocks}")
        return run_blocks(self.blocks[:blocks], self._embed(x), self.condition(x, t, y))

    def condition(self, x: Tensor, t: Tensor | float, y: Tensor | None) -> Tensor:
        """The condition vector (b, d): time embedding plus label embedding."""
        return self.t_embedder(flow_time(t, x)) + self.y_embedder(y, x.shape[0])

    def _embed(self, x: Tensor) -> Tensor:
        return self.x_embedder(x) + self.pos_embed

    def _finish(self, tokens: Tensor, c: Tensor) -> Tensor:
        return unpatchify(self.final_layer(tokens, c), self.patch_size)


def repa_loss(
    model: SiT,
    data: Tensor,
    y: Tensor | None = None,
    *,
    t: Tensor,
    noise: Tensor,
    targets: Sequence[Tensor],
) -> RepaLoss:
    """Velocity and alignment loss per image, from draws made outside.

    The data are latents (b, c, h, w), `t` (b,) in [0, 1], the noise standard normal, dropped labels are replaced.
    `targets` are the encoders' tokens (b, n, z), one tensor for each of the model's projectors.
    """
    if len(targets) != len(model.projectors) or not targets:
        raise ValueError(f"expected one target for each of {len(model.projectors)} projectors, got {len(targets)}")
    s = flow_time(t, data).to(data.dtype).view(-1, 1, 1, 1)
    velocity, projections = model.project((1 - s) * data + s * noise, t, y)
    denoising = ((velocity - (noise - data)) ** 2).flatten(1).mean(dim=1)
    losses = [alignment_loss(z, target) for z, target in zip(projections, targets, strict=True)]
    return RepaLoss(denoising, sum(losses[1:], losses[0]) / len(losses))
