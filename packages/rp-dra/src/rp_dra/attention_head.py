"""A classification head that attends to all positions of frozen features, in place of a linear one on their average.

Axes: b batch, n positions, d features, k classes.
"""

import torch
from rp_models.networks.transformer import Block
from torch import Tensor, nn


class AttentionHead(nn.Module):
    """A class token that transformer blocks let look at every position, and a linear layer on it.

    Args:
        width: number of features d.
        blocks: transformer blocks.
        heads: attention heads, which divide d.

    Source: the head of Yagoda et al. 2025 (IEEE Signal Processing Letters 32), which Appendix C of the DRA paper
    attacks with EOT; it follows Mukhopadhyay et al. 2023, arXiv:2307.08702. The number of blocks and heads is open.
    """

    def __init__(self, width: int, num_classes: int, *, blocks: int = 1, heads: int = 8) -> None:
        super().__init__()
        if blocks < 1 or heads < 1 or width % heads:
            raise ValueError(f"blocks must be at least 1 and heads divide {width} features, got {blocks} and {heads}")
        self.in_features, self.out_features = width, num_classes
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm_in = nn.LayerNorm(width, eps=1e-6)  # features of a frozen network have any scale
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classify = nn.Linear(width, num_classes)
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (b, k) of features with positions (b, n, d)."""
        if features.dim() != 3:
            raise ValueError(f"expected features with positions (b, n, d), got {tuple(features.shape)}")
        tokens = torch.cat([self.cls_token.expand(len(features), -1, -1), self.norm_in(features)], dim=1)
        return self.classify(self.norm(self.blocks(tokens)[:, 0]))
