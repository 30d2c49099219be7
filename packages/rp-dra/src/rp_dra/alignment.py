"""Diffusion representation alignment: the head and the loss (Eq. 3 of the DRA paper), and other losses."""

import torch
from rp_models import noise
from rp_models.networks import projector
from torch import Tensor, nn

from rp_dra import global_batch
from rp_dra.alignment_settings import RELATIONAL, AlignmentLoss
from rp_dra.positions import grid, resample
from rp_dra.relational import LOSSES


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
        loss: "cosine", the paper's, of pooled features; "tokens", the same at each of the classifier's positions, to
            which the target's are resampled; or a relation between the images of the batch, of all processes together,
            see `rp_dra.relational`, which needs no head.

    Source: a three-layer MLP as in Yu et al. 2025, arXiv:2410.06940 (Appendix D of the DRA paper).
    """

    def __init__(
        self,
        width: int,
        target_width: int,
        *,
        hidden: int = 2048,
        representations: int = 1,
        shared: bool = False,
        loss: AlignmentLoss = "cosine",
    ) -> None:
        super().__init__()
        if representations < 1:
            raise ValueError(f"representations must be at least 1, got {representations}")
        self.representations, self.loss, self.width = representations, loss, width
        if loss in RELATIONAL:
            return
        self.head = projector.ProjectionHead(width, target_width, hidden=hidden)
        self.more = nn.ModuleList(
            projector.ProjectionHead(width, target_width, hidden=hidden)
            for _ in range(0 if shared else representations - 1)
        )

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """The alignment loss of classifier features with their targets.

        Args:
            features: (b, width), or with positions (b, 1 + n, width or more), see `Outcome`.
            target: (b, target_width), or (b, r, target_width) for r representations of each image; for the loss
                "tokens" (b, r, m, target_width).
        """
        if target.dim() == 2:
            target = target[:, None]
        if target.shape[1] != self.representations:
            raise ValueError(
                f"the head was built for {self.representations} representation(s) of an image, the target gives "
                f"{target.shape[1]}"
            )
        if self.loss in RELATIONAL:
            everyone = global_batch.gather(features)
            others = global_batch.gather(target).unbind(dim=1)
            return torch.stack([LOSSES[self.loss](everyone, other) for other in others]).mean()
        if self.loss == "tokens":
            features = grid(features[:, 1:, : self.width])  # without the pooled ones
            target = torch.stack([resample(one, features.shape[1]) for one in target.unbind(dim=1)], dim=1)
        return alignment_loss(self.project(features), target)

    def project(self, features: Tensor) -> Tensor:
        """The predictions (b, r, target_width) from classifier features (b, width), likewise at positions."""
        first = self.head(features)
        others = [head(features) for head in self.more] if len(self.more) else [first] * (self.representations - 1)
        return torch.stack([first, *others], dim=1)


def shuffled(target: Tensor, y: Tensor, *, within_class: bool, seed: int, draw: Tensor) -> Tensor:
    """Target features given to other images of the batch, of all processes together: a control of the alignment.

    Args:
        target: (b, ...), of this process's images.
        y: labels (b,).
        within_class: to images of the same label only; what a label says about the features is then kept.
        draw: int64 (b,), the number that each image's draws belong to.

    Returns:
        Tensor like target, a permutation of the rows of the global batch.
    """
    target, y, draw = (global_batch.gather(part.detach()) for part in (target, y, draw))
    group = y if within_class else torch.zeros_like(y)
    first, second = (
        _ordered(group, noise.uniform((), seed=seed, purpose=f"shuffled targets {side}", index=draw))
        for side in ("from", "to")
    )
    place = torch.empty_like(first)
    place[second] = first
    return global_batch.own(target[place])


def _ordered(group: Tensor, key: Tensor) -> Tensor:
    """Row numbers by group, and by a key in [0, 1) inside each."""
    return torch.argsort(group.to(torch.float64) + key.to(torch.float64))
