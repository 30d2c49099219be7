"""Diffusion representation alignment: the head and the loss (Eq. 3 of the DRA paper)."""

from rp_models import projector
from torch import Tensor, nn


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """Negative cosine similarity, averaged over the batch.

    Args:
        projected: head outputs (b, d).
        target: diffusion features (b, d); no gradient flows into them.

    Returns:
        Scalar in [-1, 1]; -1 is perfect alignment. Source: Eq. 3 of the DRA paper.

    Raises:
        ValueError: if the shapes differ.
    """
    return projector.alignment_loss(projected, target).mean()


class Alignment(nn.Module):
    """The projection head between classifier and diffusion features, trained along and dropped afterwards.

    Args:
        width: features of the classifier.
        target_width: features of the target.
        hidden: width of the head's two hidden layers.

    Source: a three-layer MLP as in Yu et al. 2025, arXiv:2410.06940 (Appendix D of the DRA paper).
    """

    def __init__(self, width: int, target_width: int, *, hidden: int = 2048) -> None:
        super().__init__()
        self.head = projector.ProjectionHead(width, target_width, hidden=hidden)

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The alignment loss of classifier features (b, width) with a target (b, target_width)."""
        return alignment_loss(self.head(features), target)
