"""Diffusion representation alignment: the head and the loss (Eq. 3 of the DRA paper)."""

import torch
from rp_models.networks import projector
from torch import Tensor, nn


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Negative cosine similarity, averaged over the batch, and over an image's representations if there are several.

    Args:
        projected: head outputs (b, d) or (b, r, d).
        target: diffusion features of that shape; no gradient flows into them.

    Returns:
        Scalar in [-1, 1]; -1 is perfect alignment. Source: Eq. 3 of the DRA paper.
    """
    return projector.alignment_loss(projected, target).mean()


class Alignment(nn.Module):
    """The projection head between classifier and diffusion features, trained along and dropped afterwards.

    With an additional representation of each image (`represent`) there are two things to predict from one feature
    vector. The paper does not say by which head: here each representation has a head of its own, of the same sizes, and
    the loss is the mean of the two; `shared` lets one head predict both.

    Args:
        hidden: width of the head's two hidden layers.
        shared: one head for all representations.

    Source: a three-layer MLP as in Yu et al. 2025, arXiv:2410.06940 (Appendix D of the DRA paper).
    """

    def __init__(
        self, width: int, target_width: int, *, hidden: int = 2048, representations: int = 1, shared: bool = False
    ) -> None:
        super().__init__()
        if representations < 1:
            raise ValueError(f"representations must be at least 1, got {representations}")
        self.representations = representations
        self.head = projector.ProjectionHead(width, target_width, hidden=hidden)
        self.more = nn.ModuleList(
            projector.ProjectionHead(width, target_width, hidden=hidden)
            for _ in range(0 if shared else representations - 1)
        )

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The alignment loss of classifier features with their targets.

        Args:
            target: (b, target_width), or (b, r, target_width) for r representations of each image.
        """
        if target.dim() == 2:
            target = target[:, None]
        if target.shape[1] != self.representations:
            raise ValueError(
                f"the head was built for {self.representations} representation(s) of an image, the target gives "
                f"{target.shape[1]}"
            )
        return alignment_loss(self.project(features), target)

    def project(self, features: Tensor) -> Tensor:
        """The predictions (b, r, target_width) from classifier features (b, width)."""
        first = self.head(features)
        others = [head(features) for head in self.more] if len(self.more) else [first] * (self.representations - 1)
        return torch.stack([first, *others], dim=1)
