"""Vision transformer for classification, with timm's parameter names.

Axes: b batch, c channels, n patches, d width, k classes.
Source: Dosovitskiy et al. 2021, arXiv:2010.11929; initialisation and pooling variants as in timm's VisionTransformer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rp_models.networks.normalization import Normalize
from rp_models.networks.transformer import Block, PatchEmbed


class VisionTransformer(nn.Module):
    """Patch tokens with learned positions through transformer blocks, pooled, and a linear head.

    Args:
        image_size, patch_size, in_channels: of the images; the patch size divides the image size.
        num_classes: number of logits; 0 for no head (the features come out, as for an encoder's weights alone).
        width, depth, heads: of the transformer; the width is divisible by the heads.
        mlp_ratio: hidden width of the MLPs over the token width.
        pool: "token" pools the class token after the last norm; "avg" averages the patches before it.
        class_token: whether there is a class token; "token" needs one, "avg" leaves it out of the mean.
        drop_path: stochastic depth rate of the last block; it rises linearly from 0 at the first.
        mean: per-channel mean that is subtracted from images in [0, 1]; None for none.
        std: per-channel standard deviation; None with `mean=None`.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        pool: str = "token",
        class_token: bool = True,
        drop_path: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if pool not in ("token", "avg"):
            raise ValueError(f"pool must be 'token' or 'avg', got {pool!r}")
        if pool == "token" and not class_token:
            raise ValueError("pool='token' needs class_token=True; or pool with 'avg'")
        self.pool, self.prefix_tokens = pool, int(class_token)
        self.normalize = Normalize(in_channels, mean, std)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        patches = (image_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix_tokens + patches, width))
        self.patch_embed = PatchEmbed(image_size, patch_size, in_channels, width)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.Sequential(*(Block(width, heads, mlp_ratio=mlp_ratio, drop_path=rate) for rate in rates))
        norm = nn.LayerNorm(width, eps=1e-6)
        self.norm = norm if pool == "token" else nn.Identity()
        self.fc_norm = norm if pool == "avg" else nn.Identity()
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        self._initialize()

    def forward_tokens(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to tokens (b, [1 +] n, d), after the last norm if that precedes the pooling."""
        tokens = self.patch_embed(self.normalize(x))
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        return self.norm(self.blocks(tokens + self.pos_embed))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to pooled features (b, d)."""
        tokens = self.forward_tokens(x)
        return self.fc_norm(tokens[:, 0] if self.pool == "token" else tokens[:, self.prefix_tokens :].mean(dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, c, h, w) in [0, 1] to logits (b, k)."""
        return self.head(self.forward_features(x))

    def _initialize(self) -> None:
        """Truncated normal matrices and positions of deviation 0.02, zero biases, a class token close to zero."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
