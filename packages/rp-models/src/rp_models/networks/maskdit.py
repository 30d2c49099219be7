"""MaskDiT's network F: a wide encoder on the visible patches, a narrow decoder on all of them.

Axes: b batch, c channels, h w image, n tokens, k visible tokens, d encoder width, e decoder width.

Source: Zheng et al. 2023, "Fast training of diffusion models with masked transformers", arXiv:2306.09305.
"""

import torch
from torch import Tensor, nn

from rp_models.mask import Mask, keep_tokens, restore_tokens
from rp_models.networks.adaln import AdaLNBlock, ModulatedLinear, TimeEmbedding, init_linear
from rp_models.networks.position import sincos_table
from rp_models.networks.transformer import PatchEmbed, run_blocks, unpatchify


class MaskDiTNetwork(nn.Module):
    """The network F of the denoiser; an image, its noise level and a class to an image.

    The decoder always runs, with or without a mask; its blocks take the encoder's condition vector.

    Args:
        image_size, patch_size, in_channels: of the image or latent; the patch size divides the image size.
        width, depth, heads: the encoder's.
        decoder_width, decoder_depth, decoder_heads: the decoder's; the official models all have the default.
        mlp_ratio: hidden width of every MLP over its block's width.
        num_classes: 0 for an unconditional model.
        mask_token: whether the model can take a mask (official files of unmasked training have no mask token).
        learned_positions: train the position tables, which start as sines and cosines, instead of keeping them fixed.
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
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        mask_token: bool = True,
        learned_positions: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size, self.num_classes = patch_size, num_classes
        self.x_embedder = PatchEmbed(image_size, patch_size, in_channels, width)
        self.x_embedder.apply(init_linear)
        grid = self.x_embedder.grid
        self.pos_embed = nn.Parameter(sincos_table(width, grid)[None], learned_positions)
        self.decoder_pos_embed = nn.Parameter(sincos_table(decoder_width, grid)[None], learned_positions)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width)) if mask_token else None
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = OneHotEmbedding(num_classes, width) if num_classes else None
        self.blocks = nn.ModuleList(AdaLNBlock(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.decoder_layer = ModulatedLinear(width, decoder_width)
        self.decoder_blocks = nn.ModuleList(
            AdaLNBlock(decoder_width, decoder_heads, condition_width=width, mlp_ratio=mlp_ratio)
            for _ in range(decoder_depth)
        )
        self.final_layer = ModulatedLinear(decoder_width, patch_size**2 * in_channels, condition_width=width)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None, mask: Mask | None = None) -> Tensor:
        """The raw output F (b, c, h, w), before the preconditioning; arguments as of `MaskDiT.forward`, already scaled.

        `c_noise` is ln(sigma) / 4, (b,); labels are one-hot rows (b, num_classes), None for all zero.
        """
        c = self.condition(c_noise, labels)
        return self.decode(self.encode(x, c, mask), c, mask)

    def condition(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """The condition vector (b, d) of noise levels (b,) and one-hot labels."""
        c = self.t_embedder(c_noise)
        return c if labels is None or self.y_embedder is None else c + self.y_embedder(labels.to(c.dtype))

    def embed(self, x: Tensor, mask: Mask | None) -> Tensor:
        """Visible tokens (b, k, d) of images: patches, plus positions, then the mask."""
        tokens = self.x_embedder(x) + self.pos_embed
        return tokens if mask is None else keep_tokens(tokens, mask)

    def encode(self, x: Tensor, c: Tensor, mask: Mask | None, *, blocks: int | None = None) -> Tensor:
        """Visible tokens (b, k, d) after the first `blocks` encoder blocks, all if None."""
        return run_blocks(self.blocks[:blocks], self.embed(x, mask), c)

    def embed_latent(self, latent: Tensor, c: Tensor, mask: Mask | None) -> Tensor:
        """The decoder's input (b, n, e): projected visible tokens, mask tokens in between, plus positions."""
        tokens = self.decoder_layer(latent, c)
        if mask is not None:
            if self.mask_token is None:
                raise ValueError("this model has no mask token; build it with mask_token=True to use masks")
            tokens = restore_tokens(tokens, mask, self.mask_token)
        return tokens + self.decoder_pos_embed

    def decode(self, latent: Tensor, c: Tensor, mask: Mask | None) -> Tensor:
        """The image (b, c, h, w) from the encoder's tokens (b, k, d)."""
        tokens = run_blocks(self.decoder_blocks, self.embed_latent(latent, c, mask), c)
        return unpatchify(self.final_layer(tokens, c), self.patch_size)


class OneHotEmbedding(nn.Module):
    """Class embedding as a linear map without bias: "no class" is the zero vector, not a row of the table."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Linear(num_classes, width, bias=False)
        nn.init.normal_(self.embedding_table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        """Rows (b, num_classes) to (b, width)."""
        return self.embedding_table(labels)
