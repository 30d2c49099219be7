"""timm's XCiT, Swin and ConvNeXt in the forms of RobustBench's entries: small patches, windows, MeanSparse."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from rp_models.networks.backbones import Backbone
from rp_models.networks.mean_sparse import MeanSparse


class XCiT(Backbone):
    """A cross-covariance transformer (El-Nouby et al. 2021, arXiv:2106.09681).

    The defaults are XCiT-S12's on ImageNet. With patches of 4 pixels the first two of the four convolutions that make
    16x16 patches have a stride of 1, as in Debenedetti et al. 2023, arXiv:2209.07399.

    Args:
        width, depth, heads: of the transformer.
        patch_size: 16, 8 or 4 pixels.
        others: see `Backbone`.
    """

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 8,
        patch_size: int = 16,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if patch_size not in (4, 8, 16):
            raise ValueError(f"the patches of this XCiT have 4, 8 or 16 pixels, got {patch_size}")
        options: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": heads, "patch_size": 16}
        options |= {"eta": 1.0, "tokens_norm": True}
        super().__init__("xcit_small_12_p16_224", num_classes, in_channels, mean, std, options)
        for layer in {4: (0, 2), 8: (0,), 16: ()}[patch_size]:
            self.network.patch_embed.proj[layer][0].stride = (1, 1)
        self.network.patch_embed.patch_size = patch_size
        self.patch_size = (patch_size, patch_size)


class Swin(Backbone):
    """A Swin transformer (Liu et al. 2021, arXiv:2103.14030); the defaults are Swin-B's with windows of 7.

    Args:
        image_size: of the images, on which the windows depend.
        width: channels of the first stage; they double from stage to stage.
        depths, heads: of each stage.
        window: side of the attention's windows, in tokens.
        norm_eps: of all norms.
        mean_sparse: MeanSparse operators after each residual sum and each linear layer of the MLPs, keys
            `layers.0.blocks.0.meansparse1, ....mlp.meansparse1, ...` (Amini et al. 2024, arXiv:2406.05927).
        others: see `Backbone`.
    """

    def __init__(
        self,
        image_size: int = 224,
        width: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 7,
        norm_eps: float = 1e-5,
        mean_sparse: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        options: dict[str, Any] = {"img_size": image_size, "embed_dim": width, "window_size": window}
        options |= {"depths": tuple(depths), "num_heads": tuple(heads)}
        options |= {"norm_layer": partial(nn.LayerNorm, eps=norm_eps)}
        super().__init__("swin_base_patch4_window7_224", num_classes, in_channels, mean, std, options)
        for layer in self.network.layers if mean_sparse else ():
            for block in layer.blocks:
                block.__class__ = _sparse_swin_block()
                block.meansparse1, block.meansparse2 = MeanSparse(block.dim, dim=-1), MeanSparse(block.dim, dim=-1)
                block.mlp = _SparseMlp(block.mlp)


class MeanSparseConvNeXt(Backbone):
    """A ConvNeXt with MeanSparse before each GELU and at the end of each residual branch.

    Keys `stages.0.blocks.0.mlp.act.0.running_mean, ....drop_path.1.running_mean, ...`. Source: Amini et al. 2024,
    arXiv:2406.05927.

    Args:
        others: see `Backbone`.
    """

    def __init__(
        self,
        model: str = "convnext_large",
        num_classes: int = 1000,
        in_channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model, num_classes, in_channels, mean, std, options)
        for stage in self.network.stages:
            for block in stage.blocks:
                hidden, width = block.mlp.fc1.out_features, block.mlp.fc2.out_features
                block.mlp.act = nn.Sequential(MeanSparse(hidden, dim=-1, momentum=True), block.mlp.act)
                block.drop_path = nn.Sequential(block.drop_path, MeanSparse(width, momentum=True))


@cache
def _sparse_swin_block() -> type[nn.Module]:
    """Swin's block in timm with an operator after each of its two sums; which is imported here."""
    from timm.models.swin_transformer import SwinTransformerBlock

    class SparseSwinBlock(SwinTransformerBlock):
        meansparse1: MeanSparse
        meansparse2: MeanSparse

        def forward(self, x: Tensor) -> Tensor:
            x = self.meansparse1(x + self.drop_path1(self._attn(self.norm1(x))))
            return self.meansparse2(x + self.drop_path2(self.mlp(self.norm2(x))))

    return SparseSwinBlock


class _SparseMlp(nn.Module):
    """The MLP of timm with MeanSparse behind both linear layers."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = mlp.fc1, mlp.act, mlp.fc2
        self.meansparse1 = MeanSparse(mlp.fc1.out_features, dim=-1)
        self.meansparse2 = MeanSparse(mlp.fc2.out_features, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (b, n, c) to the same shape."""
        return self.meansparse2(self.fc2(self.act(self.meansparse1(self.fc1(x)))))
