"""The projection of hidden features onto another network's features, and the loss that aligns them.

Source: Yu et al. 2025, "Representation alignment for generation", arXiv:2410.06940.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from rp_models.networks.adaln import init_linear


class ProjectionHead(nn.Sequential):
    """Three linear layers with SiLU between them, applied to the last axis; no normalisation layer."""

    def __init__(self, in_width: int, out_width: int, hidden: int = 2048) -> None:
        super().__init__(
            nn.Linear(in_width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, out_width),
        )
        self.apply(init_linear)


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """The negative cosine of projected and target features per image (b,), averaged over tokens; -1 is perfect.

    Args:
        projected: (b, ..., d).
        target: of the same shape; no gradient flows into it.
    """
    if projected.shape != target.shape:
        raise ValueError(f"expected features of one shape, got {tuple(projected.shape)} and {tuple(target.shape)}")
    cosine = (F.normalize(projected, dim=-1) * F.normalize(target.detach(), dim=-1)).sum(dim=-1)
    return -cosine.reshape(len(cosine), -1).mean(dim=1)
