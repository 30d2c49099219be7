"""Masked autoencoder: a ViT that sees a few patches of an image and predicts the others.

Axes: b batch, c channels, n patches, k kept patches, p patch size, d width. Images are in [0, 1]; the network works on
normalised ones. A mask (`rp_models.mask`) is an argument everywhere, so that nothing here draws random numbers.

Source: He et al. 2022, arXiv:2111.06377; parameter names are those of its public code.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rp_models.mask import Mask, keep_tokens, restore_tokens
from rp_models.networks.normalization import Normalize
from rp_models.networks.position import sincos_table
from rp_models.networks.transformer import Block, PatchEmbed, attention_maps, patchify, run_blocks, unpatchify

_VARIANCE_FLOOR = 1e-6


class MaskedAutoencoder(nn.Module):
    """Encoder on the visible patches, small decoder on all of them, and the masked-reconstruction loss.

    Differentiating twice (the gradient of a gradient of the loss) needs torch's plain attention:
    `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): ...`.

    Args:
        image_size, patch_size, in_channels: of the images; the patch size divides the image size.
        width, depth, heads: the encoder's; the width is divisible by 4 and by the heads.
        decoder_width, decoder_depth, decoder_heads: the decoder's, likewise.
        mlp_ratio: hidden width of the MLPs over the token width.
        norm_pix: predict each patch standardised by its own mean and deviation.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_pix: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if norm_pix and patch_size**2 * in_channels < 2:
            raise ValueError("norm_pix needs patches of two values or more: a single one has no deviation")
        self.patch_size, self.norm_pix = patch_size, norm_pix
        self.normalize = Normalize(in_channels, mean, std)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = _fixed_table(width, image_size // patch_size)
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, width)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio=mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.decoder_pos_embed = _fixed_table(decoder_width, image_size // patch_size)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_width, decoder_heads, mlp_ratio=mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_width, patch_size**2 * in_channels)
        self._initialize()

    @property
    def tokens(self) -> int:
        """The number n of patches, hence of noise values that a mask needs per image."""
        return self.patch_embed.tokens

    def encode(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Latent tokens (b, 1 + k, d) of the visible patches of images (b, c, h, w) in [0, 1].

        The class token comes first, then the patches in the order of `mask.ids_keep`; in image order without a mask.
        """
        return self.norm(run_blocks(self.blocks, self._encoder_input(x, mask)))

    def decode(self, latent: Tensor, mask: Mask) -> Tensor:
        """The predicted patches (b, n, p^2 c) in image order, from latents (b, 1 + k, d) of the same mask."""
        tokens = run_blocks(self.decoder_blocks, self._decoder_input(latent, mask))
        return self.decoder_pred(self.decoder_norm(tokens))[:, 1:]

    def forward(self, x: Tensor, mask: Mask) -> Tensor:
        """The prediction (b, n, p^2 c) of every patch of images (b, c, h, w) in [0, 1], in the units of `target`."""
        return self.decode(self.encode(x, mask), mask)

    def forward_features(self, x: Tensor) -> Tensor:
        """The mean (b, d) of the latent patches of whole images (b, c, h, w) in [0, 1]."""
        return self.encode(x)[:, 1:].mean(dim=1)

    def target(self, x: Tensor) -> Tensor:
        """What the decoder shall predict for images in [0, 1]: their normalised patches (b, n, p^2 c).

        Inside a patch the order is row, column, channel. With `norm_pix`, each patch is standardised by its own mean
        and (unbiased) variance.
        """
        patches = patchify(self.normalize(x), self.patch_size)
        if self.norm_pix:
            mean, deviation = patch_statistics(patches)
            patches = (patches - mean) / deviation
        return patches

    def loss(self, x: Tensor, mask: Mask, *, detach_target: bool = False) -> Tensor:
        """The mean squared error (b,) over the masked patches of each image; its mean is the loss of the public code.

        Gradients reach the images (b, c, h, w) in [0, 1] through the visible patches and, unless `detach_target`,
        through the target.

        Raises:
            ValueError: if the mask hides nothing.
        """
        if mask.ids_keep.shape[1] == mask.ids_restore.shape[1]:
            raise ValueError("the mask hides no patch, so there is nothing to predict; use a larger mask rate")
        target = self.target(x)
        error = (self(x, mask) - (target.detach() if detach_target else target)).square().mean(dim=-1)
        return (error * mask.mask).sum(dim=1) / mask.mask.sum(dim=1)

    def reconstruct(self, x: Tensor, mask: Mask) -> Tensor:
        """Images (b, c, h, w) with the hidden patches replaced by their prediction and the visible ones as they were.

        Predictions can leave [0, 1]. With `norm_pix` they get the true mean and deviation of their patch back, hence
        see a little of what was hidden.
        """
        patches = self(x, mask)
        if self.norm_pix:
            mean, deviation = patch_statistics(patchify(self.normalize(x), self.patch_size))
            patches = patches * deviation + mean
        predicted = self.normalize.invert(unpatchify(patches, self.patch_size))
        hidden = unpatchify(mask.mask[:, :, None].expand_as(patches), self.patch_size) > 0
        return torch.where(hidden, predicted, x)

    def attention_maps(
        self, x: Tensor, mask: Mask | None, *, part: Literal["encoder", "decoder"] = "decoder"
    ) -> list[Tensor]:
        """The attention weights of every layer of a part, which the fused path applies too; at one projection more.

        Returns:
            One tensor (b, heads, 1 + m, 1 + m) per layer, rows summing to 1, the class token first; m = n patches in
            image order for the decoder, m = k in the order of `mask.ids_keep` for the encoder, which needs no mask.
        """
        if part == "encoder":
            return attention_maps(self.blocks, self._encoder_input(x, mask))
        if part != "decoder":
            raise ValueError(f"part must be 'encoder' or 'decoder', got {part!r}")
        if mask is None:
            raise ValueError("the decoder's attention maps need a mask; make one with rp_models.mask.random_mask")
        return attention_maps(self.decoder_blocks, self.decoder_tokens(x, mask))

    def decoder_tokens(self, x: Tensor, mask: Mask) -> Tensor:
        """What the decoder's first layer gets of images (b, c, h, w) in [0, 1]: tokens (b, 1 + n, d)."""
        return self._decoder_input(self.encode(x, mask), mask)

    def _encoder_input(self, x: Tensor, mask: Mask | None) -> Tensor:
        """Class token and visible patches, with positions: (b, 1 + k, d)."""
        tokens = self.patch_embed(self.normalize(x)) + self.pos_embed[:, 1:]
        if mask is not None:
            tokens = keep_tokens(tokens, mask)
        cls = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([cls, tokens], dim=1)

    def _decoder_input(self, latent: Tensor, mask: Mask) -> Tensor:
        """Class token, then all patches in image order with mask tokens for the hidden ones, with positions."""
        embedded = self.decoder_embed(latent)
        patches = restore_tokens(embedded[:, 1:], mask, self.mask_token)
        return torch.cat([embedded[:, :1], patches], dim=1) + self.decoder_pos_embed

    def _initialize(self) -> None:
        """Xavier-uniform matrices (the patch projection as one), zero biases, normal tokens of deviation 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        projection = self.patch_embed.proj.weight
        nn.init.xavier_uniform_(projection.view(projection.shape[0], -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)


def _fixed_table(width: int, grid: int) -> nn.Parameter:
    """The sine-cosine table (1, 1 + n, d); a parameter without gradient, since the public state dicts hold it."""
    return nn.Parameter(sincos_table(width, grid, class_token=True)[None], requires_grad=False)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and floored deviation (b, n, 1) of the values of each patch."""
    mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return mean, (variance + _VARIANCE_FLOOR).sqrt()
