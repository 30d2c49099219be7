"""MaskDiT's denoiser D: the network inside EDM's preconditioning, with masks, class guidance, features and attention.

Source: Zheng et al. 2023, arXiv:2306.09305; preconditioning of Karras et al. 2022, arXiv:2206.00364, Table 1.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from rp_models.diffusion.class_labels import one_hot_labels
from rp_models.mask import Mask
from rp_models.networks.maskdit import MaskDiTNetwork
from rp_models.networks.transformer import attention_maps
from rp_models.values import as_values, check_values


class MaskDiT(nn.Module):
    """The denoiser D(x; sigma): an estimate of the clean image in x, an image with Gaussian noise of std sigma.

    Data are latents, or images scaled to [-1, 1]; `sigma_data` is their standard deviation. The defaults are DiT-XL/2
    on the 4-channel latents of 256 px images. Masking depends on the argument `mask` alone, not on the training mode.

    Args:
        sigma_data: standard deviation of the data.
        sigma_min, sigma_max: range of noise levels that a sampler may ask for.
        **network: the network's, see `MaskDiTNetwork`.
    """

    def __init__(
        self,
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = float("inf"),
        **network: Any,
    ) -> None:
        super().__init__()
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.model = MaskDiTNetwork(**network)
        self.num_classes = self.model.num_classes
        self.image_size, self.in_channels = self.model.x_embedder.image_size, self.model.x_embedder.in_channels

    @property
    def patch_size(self) -> int:
        """Height and width of a patch."""
        return self.model.patch_size

    @property
    def tokens(self) -> int:
        """Number of patches n of an image, the length of a mask's rows."""
        return self.model.x_embedder.tokens

    def forward(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None = None, *, mask: Mask | None = None
    ) -> Tensor:
        """The denoised images D (b, c, h, w).

        Args:
            x: noisy data (b, c, h, w).
            sigma: noise level, positive: one number, or one per image (b,).
            class_labels: int64 (b,), or one-hot float rows (b, num_classes), a zero row for "no class"; None: no class.
            mask: removes patches from the encoder; the decoder predicts them too.

        Raises:
            ValueError: for images, noise levels, labels or masks that do not fit.
        """
        scales, c_noise, labels = self._prepare(x, sigma, class_labels)
        return scales.c_skip * x + scales.c_out * self._raw(scales.c_in * x, c_noise, labels, mask)

    def guided(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor, *, scale: float) -> Tensor:
        """The denoised images with the class's influence multiplied by `scale` (classifier-free guidance).

        Other arguments as of `forward`. Scale 1 is no guidance; the paper's figures use 1.5.

        Source: Ho and Salimans 2022, arXiv:2207.12598.
        """
        scales, c_noise, labels = self._prepare(x, sigma, class_labels)
        if class_labels is None or labels is None:
            raise ValueError("guidance needs class labels and a model with num_classes > 0")
        labels = labels.expand(x.shape[0], -1)
        both = torch.cat([labels, torch.zeros_like(labels)])
        raw = self._raw(torch.cat([scales.c_in * x] * 2), torch.cat([c_noise] * 2), both, None)
        with_class, without = raw.chunk(2)
        return scales.c_skip * x + scales.c_out * (without + scale * (with_class - without))

    def features(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        blocks: int,
        mask: Mask | None = None,
    ) -> Tensor:
        """Encoder tokens (b, k, d) after the first `blocks` blocks, 1 to the depth; nothing behind them is computed.

        Other arguments as of `forward`; with a mask the tokens are the visible ones in the order of `mask.ids_keep`.
        """
        depth = len(self.model.blocks)
        if not 1 <= blocks <= depth:
            raise ValueError(f"blocks counts the encoder blocks to run and must be in 1..{depth}, got {blocks}")
        scales, c_noise, labels = self._prepare(x, sigma, class_labels)
        c = self.model.condition(c_noise, labels)
        return self.model.encode(self._cast(scales.c_in * x), c, mask, blocks=blocks)

    def attention_maps(
        self,
        x: Tensor,
        sigma: Tensor | float,
        class_labels: Tensor | None = None,
        *,
        mask: Mask | None = None,
        part: Literal["encoder", "decoder"] = "decoder",
    ) -> list[Tensor]:
        """The softmax weights of each block of one part, in order of depth; arguments as of `forward`.

        Returns:
            One tensor (b, heads, n, n) per block; rows sum to 1. With a mask the encoder's have k visible tokens.
        """
        scales, c_noise, labels = self._prepare(x, sigma, class_labels)
        c = self.model.condition(c_noise, labels)
        x = self._cast(scales.c_in * x)
        if part == "encoder":
            blocks, tokens = self.model.blocks, self.model.embed(x, mask)
        elif part == "decoder":
            blocks, tokens = self.model.decoder_blocks, self.model.embed_latent(self.model.encode(x, c, mask), c, mask)
        else:
            raise ValueError(f"part must be 'encoder' or 'decoder', got {part!r}")
        return attention_maps(blocks, tokens, c)

    def _prepare(
        self, x: Tensor, sigma: Tensor | float, class_labels: Tensor | None
    ) -> tuple["Scales", Tensor, Tensor | None]:
        """Checked preconditioning factors (b, 1, 1, 1), c_noise (b,), one-hot labels (b or 1, num_classes)."""
        expected = (self.in_channels, self.image_size, self.image_size)
        if x.dim() != 4 or tuple(x.shape[1:]) != expected:
            raise ValueError(f"expected images (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}")
        dtype = torch.promote_types(self.model.pos_embed.dtype, torch.float32)
        sigma = as_values(sigma, device=x.device, dtype=dtype).flatten()
        if sigma.shape not in ((1,), (x.shape[0],)):
            raise ValueError(f"expected one sigma or {x.shape[0]}, got {sigma.numel()}")
        check_values(
            sigma,
            lambda sigma: sigma > 0,
            lambda sigma: f"sigma must be positive, got {float(sigma.min()):.3g}; the denoiser divides by it",
        )
        sigma = sigma.expand(x.shape[0])
        labels = one_hot_labels(class_labels, self.num_classes, x)
        return Scales.at(sigma.view(-1, 1, 1, 1), self.sigma_data), sigma.log() / 4, labels

    def _raw(self, x: Tensor, c_noise: Tensor, labels: Tensor | None, mask: Mask | None) -> Tensor:
        """The network's output, run in its own dtype and returned in that of `x`."""
        return self.model(self._cast(x), c_noise, labels, mask).to(x.dtype)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.model.pos_embed.dtype)


class Scales(NamedTuple):
    """EDM's preconditioning: D = c_skip x + c_out F(c_in x)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor

    @classmethod
    def at(cls, sigma: Tensor, sigma_data: float) -> "Scales":
        """The factors at noise level sigma, in its shape."""
        variance = sigma**2 + sigma_data**2
        return cls(sigma_data**2 / variance, sigma * sigma_data * variance.rsqrt(), variance.rsqrt())


class GuidedMaskDiT(nn.Module):
    """A MaskDiT whose every call is class-guided, for a sampler: `sample_heun(GuidedMaskDiT(model, 1.5), ...)`.

    Args:
        denoiser: the model.
        scale: of the guidance, see `MaskDiT.guided`.
    """

    def __init__(self, denoiser: MaskDiT, scale: float) -> None:
        super().__init__()
        self.denoiser, self.scale = denoiser, scale
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max

    def forward(self, x: Tensor, sigma: Tensor | float, class_labels: Tensor) -> Tensor:
        """The guided denoised images (b, c, h, w)."""
        return self.denoiser.guided(x, sigma, class_labels, scale=self.scale)
